"""A process's health over HTTP, for probes: three paths, no framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

import orjson

from ordinaut.model import Json

REQUEST_TIMEOUT = 5.0  # seconds for a probe to send its request


class HealthServer:
    """Answers ``/health`` and ``/health/ready`` by ``report``, ``/health/live`` always with 200.

    ``report`` returns whether the process is well, and what it says about itself.
    """

    def __init__(self, host: str, port: int, report: Callable[[], tuple[bool, Json]]) -> None:
        self._host = host
        self._port = port
        self._report = report
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> HealthServer:
        if self._port:
            self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A probe that sends nothing, or goes away, is no concern of ours.
        with suppress(TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(REQUEST_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b" ", 2)[1].decode("latin-1")))
                await writer.drain()
        writer.close()

    def _answer(self, path: str) -> bytes:
        well, said = self._report()
        match path.partition("?")[0]:
            case "/health/live":
                status, body = HTTPStatus.OK, {"status": "live"}
            case "/health" | "/health/ready":
                status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
                body = {"status": "ready" if well else "not ready", **said}
            case _:
                status, body = HTTPStatus.NOT_FOUND, {"status": "no such page"}
        content = orjson.dumps(body)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + content
