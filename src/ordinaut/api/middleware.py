"""What every request passes on its way in and every answer on its way out: plain ASGI."""

from __future__ import annotations

import asyncio
import re
import secrets
from itertools import count
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ordinaut import telemetry
from ordinaut.api.errors import problem
from ordinaut.clock import Clock

REQUEST_ID: Final = b"x-request-id"
SECURITY_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    # Heeded where it came over TLS, which is the proxy's.
    "strict-transport-security": "max-age=31536000",
}

_CLOSING = tuple((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items())
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")

log = telemetry.logger(__name__)


class RequestContext:
    """Gives each request an id, measures it, and answers what nobody expected."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self.app = app
        self.clock = clock
        self.prefix = secrets.token_hex(8)
        self.numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = self.clock.monotonic()
        given = dict(scope["headers"]).get(REQUEST_ID, b"").decode("latin-1")
        request_id = given if _SAFE_ID.match(given) else f"{self.prefix}{next(self.numbers):x}"
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = 0

        async def send_tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_tagged)
        except Exception:
            log.exception("http.unexpected", path=scope["path"])
            if status:
                raise
            await _unexpected(scope, receive, send_tagged)
        telemetry.emit(
            "http.request",
            method=scope["method"],
            route=getattr(scope.get("route"), "path", ""),
            status=status,
            seconds=self.clock.monotonic() - began,
        )


class BodyLimit:
    """Refuses a body over its limit, when it is announced or else as soon as it is reached.

    Who sends it so slowly that it is not complete after ``seconds`` is refused as well.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            answer = problem(Request(scope), 413, code="too_large", detail=self._detail())
            await answer(scope, receive, send)
            return
        seen = 0
        complete = False
        loop = asyncio.get_running_loop()
        until = loop.time() + self.seconds

        async def receive_counted() -> Message:
            nonlocal seen, complete
            if complete:  # what comes now is the end of the connection, whenever that is
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                detail = f"the body was not complete after {self.seconds:g} s"
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                # An exception that mounted applications know as well.
                raise HTTPException(413, self._detail())
            return message

        await self.app(scope, receive_counted, send)

    def _detail(self) -> str:
        return f"the body is larger than {self.max_bytes} bytes"


class SecurityHeaders:
    """Adds the headers that close what is not needed; an answer may set its own instead."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = dict(message["headers"])
                missing = [pair for pair in _CLOSING if pair[0] not in present]
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        await self.app(scope, receive, send_closed)


async def _unexpected(scope: Scope, receive: Receive, send: Send) -> None:
    answer = problem(
        Request(scope), 500, code="internal", detail="an unexpected error; it is in the log"
    )
    await answer(scope, receive, send)
