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
    """Answers ``/health`` and ``/health/ready`` by ``check``, ``/health/live`` always with 200.

    ``check`` returns whether the process is well, and what it says about itself.
    """

    def __init__(
        self, *, host: str, port: int, check: Callable[[], tuple[bool, dict[str, Json]]]
    ) -> None:
        self._host = host
        self._port = port
        self._check = check
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> HealthServer:
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A probe that does not speak HTTP, or goes away, is no concern of ours.
        with suppress(
            TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(REQUEST_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head))
                await writer.drain()
        writer.close()

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _http(HTTPStatus.METHOD_NOT_ALLOWED, {"status": "only GET"})
        if path == b"/health/live":
            return _http(HTTPStatus.OK, {"status": "live"})
        if path not in (b"/health", b"/health/ready"):
            return _http(HTTPStatus.NOT_FOUND, {"status": "there is only /health"})
        well, said = self._check()
        return _http(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, said)


def _http(status: HTTPStatus, body: dict[str, Json]) -> bytes:
    content = orjson.dumps(body)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content
