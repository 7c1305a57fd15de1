"""What probes are told."""

from __future__ import annotations

import asyncio

import pytest

from ordinaut.devserver.ports import free_port
from ordinaut.health import HealthServer


async def ask(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("request_line", "well", "status"),
    [
        (b"GET /health HTTP/1.1", True, 200),
        (b"GET /health?verbose HTTP/1.1", False, 503),
        (b"GET /health/ready HTTP/1.1", False, 503),
        (b"GET /health/live HTTP/1.1", False, 200),
        (b"GET /metrics HTTP/1.1", True, 404),
        (b"POST /health HTTP/1.1", True, 405),
    ],
)
async def test_a_probe_is_told_how_the_process_is(request_line: bytes, well: bool, status: int):
    port = free_port()
    async with HealthServer(
        host="127.0.0.1", port=port, check=lambda: (well, {"status": "as it is"})
    ):
        found, body = await ask(port, request_line + b"\r\nHost: here\r\n\r\n")
    assert found == status
    assert body.startswith(b'{"status":')


async def test_a_client_that_goes_away_harms_nobody():
    port = free_port()
    async with HealthServer(host="127.0.0.1", port=port, check=lambda: (True, {})):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /hea")
        writer.close()
        await writer.wait_closed()
        assert (await ask(port, b"GET /health HTTP/1.1\r\n\r\n"))[0] == 200
