"""A tiny HTTP server that says whether this worker is alive and well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from ordinaut.model import Json

MAX_WAIT = 5.0  # seconds for a request to arrive

Answer = tuple[bool, dict[str, Json]]


class HealthServer:
    """Serves ``GET /health`` on a port of its own."""

    def __init__(self, *, host: str, port: int, check: Callable[[], Answer]) -> None:
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
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(MAX_WAIT):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(request))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # a client that does not speak HTTP is not our problem
        finally:
            writer.close()

    def _response(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD") or path not in (b"/health", b"/health/live"):
            return _http("404 Not Found", {"detail": "there is only GET /health"})
        healthy, details = self._check()
        return _http("200 OK" if healthy else "503 Service Unavailable", details)


def _http(status: str, body: dict[str, Json]) -> bytes:
    content = orjson.dumps(body)
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content
