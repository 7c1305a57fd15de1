"""Events as an extension sees them: publish, subscribe, a live stream, dead letters.

A message whose payload says ``{"fail": true}`` makes the handler fail until it is a dead
letter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from ordinaut.plugins.base import (
    Capability,
    Context,
    Extension,
    ExtensionInfo,
    Json,
    Message,
)

EVENT = "message"
KEPT = 100  # messages that GET /messages shows
PAGE_HEADERS = {"content-security-policy": "default-src 'self'; frame-ancestors 'none'"}
WAITING = 1000  # messages that a slow reader of the stream may be behind


class Publication(BaseModel):
    """What ``POST /publish`` takes."""

    model_config = ConfigDict(extra="forbid")

    payload: Annotated[Any, Field(description="Any JSON value.")]


class Seen(BaseModel):
    """A message as it was received."""

    id: str
    data: Any
    attempt: int


class EventsDemo(Extension):
    """Remembers what it received, and passes it on to everyone who listens."""

    def __init__(self) -> None:
        self._seen: deque[Seen] = deque(maxlen=KEPT)
        self._listeners: set[asyncio.Queue[Seen]] = set()

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("events_demo", "Events demo", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {
            Capability.ROUTES,
            Capability.STATIC,
            Capability.EVENTS_PUB,
            Capability.EVENTS_SUB,
        }

    def setup(self, *, context: Context, **_: Any) -> APIRouter:
        self._folder = context["folder"]
        self._events = context["events"]
        self._events.subscribe(EVENT, self.receive)
        context["static"].mount("/static", "static")
        router = APIRouter()
        router.add_api_route("/", self.page, include_in_schema=False)
        router.add_api_route("/publish", self.publish, methods=["POST"], status_code=202)
        router.add_api_route("/messages", self.messages, response_model=list[Seen])
        router.add_api_route("/dead", self.dead, response_model=list[Seen])
        router.add_api_route("/stream", self.stream)
        return router

    async def receive(self, message: Message) -> None:
        """Take one message; fails where it says so."""
        if isinstance(message.data, dict) and message.data.get("fail"):
            raise RuntimeError("the message asked for a failure")
        seen = Seen(id=message.id, data=message.data, attempt=message.attempt)
        self._seen.append(seen)
        for listener in self._listeners:
            if not listener.full():
                listener.put_nowait(seen)

    async def page(self) -> FileResponse:
        """Return the page that shows the stream."""
        return FileResponse(self._folder / "static" / "index.html", headers=PAGE_HEADERS)

    async def publish(self, publication: Publication) -> dict[str, Json]:
        """Publish an event; it comes back through the outbox and Redis."""
        await self._events.publish(EVENT, publication.payload)
        return {"published": EVENT}

    async def messages(self) -> list[Seen]:
        """Return the last messages, the newest last."""
        return list(self._seen)

    async def dead(self) -> list[Seen]:
        """Return the dead letters, the oldest first."""
        letters = await self._events.dead_letters(EVENT)
        return [Seen(id=one.id, data=one.data, attempt=one.attempt) for one in letters]

    async def stream(self) -> EventSourceResponse:
        """Stream messages as they come."""
        return EventSourceResponse(self._live())

    async def _live(self) -> AsyncIterator[ServerSentEvent]:
        listener: asyncio.Queue[Seen] = asyncio.Queue(WAITING)
        self._listeners.add(listener)
        try:
            while True:
                seen = await listener.get()
                yield ServerSentEvent(orjson.dumps(seen.model_dump()).decode(), id=seen.id)
        finally:
            self._listeners.discard(listener)


def get_extension() -> Extension:
    """Return the extension."""
    return EventsDemo()
