"""A receiver of webhooks for tests: a real server, and the check that the specification wants."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

TOLERANCE = timedelta(minutes=5)


class Refused(Exception):
    """A message that did not come from who knows the secret, or not now."""


def verify(secret: str, headers: dict[str, str], body: bytes, *, now: datetime) -> Any:
    """Return what a message says, as https://www.standardwebhooks.com wants it verified."""
    sent = int(headers["webhook-timestamp"])
    if abs(now.timestamp() - sent) > TOLERANCE.total_seconds():
        raise Refused("the timestamp is too old or lies ahead")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{sent}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    for one in headers["webhook-signature"].split(" "):
        version, _, given = one.partition(",")
        if version == "v1" and hmac.compare_digest(given, wanted):
            return json.loads(body)
    raise Refused("no signature fits")


@dataclass(frozen=True)
class Message:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def said(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A server that notes what comes, and answers as ``answer`` says."""

    url: str = ""
    messages: list[Message] = field(default_factory=list)
    answer: Callable[[Message], int | str] = lambda _: 204  # a status, or a whole head
    hold: dict[str, asyncio.Event] = field(default_factory=dict)  # by path: answers wait for it
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def has(self, count: int, *, within: float = 20.0) -> list[Message]:
        """Wait until so many messages came, and return them."""
        async with asyncio.timeout(within):
            while len(self.messages) < count:
                self.came.clear()
                await self.came.wait()
        return self.messages

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = [line.split(": ", 1) for line in head[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            message = Message(head[0].split(" ")[1], headers, body)
            self.messages.append(message)
            self.came.set()
            if message.path in self.hold:
                await self.hold[message.path].wait()
            said = self.answer(message)
            status = said if isinstance(said, str) else f"{said} Said"
            writer.write(
                f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Serve a receiver on a port of its own."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        for held in receiver.hold.values():
            held.set()
        server.close()
        await server.wait_closed()
