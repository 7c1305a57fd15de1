"""``context["events"]``: what an extension publishes, and what it listens to.

What is published goes into the outbox, so it survives whatever happens to Redis, may fire
tasks (topic ``ext.<id>.<name>``), and reaches the stream ``ordinaut:ext:<id>:<name>`` through
the relay. A subscription is a consumer of a group of that stream::

    read ──► handler returns ──► acknowledged
      ▲          │ raises, or takes too long
      │          └─► again after a pause ──► after the last try: <stream>:dead, acknowledged
      └── claimed from a consumer that died with it
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import orjson

from ordinaut import bus, telemetry
from ordinaut.engine import values
from ordinaut.errors import CapabilityDenied, ExtensionError, Unavailable
from ordinaut.model import Event, Json, uuid7
from ordinaut.plugins.base import Handler, Message
from ordinaut.subscribers import DEAD_AFTER

Publish: TypeAlias = Callable[[Event], Awaitable[None]]

ALL_EVENTS = "*"  # subscribes to every event of the product

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_FOREIGN_NAME = re.compile(rf"(?P<id>[a-z][a-z0-9_]*):(?P<name>{_NAME.pattern})")

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a subscription waits; all in seconds."""

    block: float = 2.0
    handler: float = 30.0  # a handler that takes longer has failed
    claim_idle: float = DEAD_AFTER  # longer than all tries of a living consumer
    claim_every: float = 15.0
    first_pause: float = 0.5  # doubles from try to try
    tries: int = 5
    redis_away: float = 2.0


class Transport(Protocol):
    """What a subscription needs of :class:`ordinaut.bus.Bus`."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def ensure_group(self, stream: str, group: str, *, start: str) -> None: ...
    async def read(
        self, stream: str, group: str, consumer: str, *, block: float, limit: int
    ) -> list[bus.Message]: ...
    async def claim(
        self, stream: str, group: str, consumer: str, *, idle: float, limit: int
    ) -> list[bus.Message]: ...
    async def acknowledge(self, stream: str, group: str, ids: list[str]) -> None: ...
    async def tail(
        self, stream: str, *, after: str, block: float, limit: int
    ) -> list[bus.Message]: ...
    async def put(self, entry: bus.Entry) -> None: ...
    async def leave(self, stream: str, group: str, consumer: str) -> None: ...


@dataclass(slots=True)
class Subscription:
    """One handler on one stream, as a consumer of one group."""

    stream: str
    group: str
    handler: Handler
    handled: int = 0
    dead: int = 0
    last_error: str = ""

    def describe(self) -> dict[str, Json]:
        """Return what ``GET /extensions`` shows of it."""
        return {
            "stream": self.stream,
            "group": self.group,
            "handled": self.handled,
            "dead": self.dead,
            "last_error": self.last_error,
        }


class Consumer:
    """Reads one subscription until it is cancelled."""

    def __init__(self, subscription: Subscription, transport: Transport, pace: Pace) -> None:
        self._of = subscription
        self._transport = transport
        self._pace = pace
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid7()}"
        self._claimed_at: float | None = None

    async def run(self) -> None:
        """Join the group and handle messages; Redis may come and go."""
        joined = False
        try:
            while True:
                try:
                    if not joined:
                        await self._join()
                        joined = True
                    await self.run_once()
                except Unavailable as error:
                    log.warning("extension.redis_away", stream=self._of.stream, error=error.message)
                    await asyncio.sleep(self._pace.redis_away)
        finally:
            if joined:
                await self._leave()

    async def _join(self) -> None:
        # Of an extension's own events a new group misses none; of all events it takes what
        # comes from now on, or it would begin with the history of the installation.
        start = "$" if self._of.stream == bus.EVENTS else "0"
        await self._transport.ensure_group(self._of.stream, self._of.group, start=start)

    async def run_once(self) -> None:
        """Handle what a dead consumer left behind, then what is new."""
        of, pace = self._of, self._pace
        now = asyncio.get_running_loop().time()
        if self._claimed_at is None or now - self._claimed_at >= pace.claim_every:
            self._claimed_at = now
            for message in await self._transport.claim(
                of.stream, of.group, self._name, idle=pace.claim_idle, limit=10
            ):
                await self._take(message)
        for message in await self._transport.read(
            of.stream, of.group, self._name, block=pace.block, limit=10
        ):
            await self._take(message)

    async def _take(self, raw: bus.Message) -> None:
        """Handle one message to its end: acknowledged, or dead and acknowledged."""
        if raw.fields.get(bus.REDELIVERED_TO, self._of.group) != self._of.group:
            await self._transport.acknowledge(self._of.stream, self._of.group, [raw.id])
            return
        error = f"its consumers died {raw.deliveries - 1} times"
        for attempt in range(raw.deliveries, self._pace.tries + 1):
            try:
                await self._handle(_message(raw, attempt))
            except (Exception, SystemExit) as failed:
                error = self._of.last_error = f"{type(failed).__name__}: {failed}"
                log.exception("extension.handler_failed", stream=raw.stream, attempt=attempt)
                if attempt < self._pace.tries:
                    await asyncio.sleep(self._pace.first_pause * 2 ** (attempt - 1))
            else:
                self._of.handled += 1
                break
        else:
            await self._bury(raw, error)
        await self._transport.acknowledge(self._of.stream, self._of.group, [raw.id])

    async def _handle(self, message: Message) -> None:
        async with asyncio.timeout(self._pace.handler):
            result: object = self._of.handler(message)
            if inspect.isawaitable(result):
                await result

    async def _bury(self, raw: bus.Message, error: str) -> None:
        fields = {**raw.fields, "error": error[:2000], "group": self._of.group}
        await self._transport.put(bus.Entry(raw.stream + bus.DEAD, fields))
        self._of.dead += 1

    async def _leave(self) -> None:
        try:
            await self._transport.leave(self._of.stream, self._of.group, self._name)
        except Unavailable as error:
            log.warning("extension.redis_away", stream=self._of.stream, error=error.message)


class EventsFacade:
    """``context["events"]`` of one extension; its consumers run while it is entered."""

    def __init__(
        self,
        extension_id: str,
        *,
        publish: Publish | CapabilityDenied,
        transport: Callable[[], Transport] | CapabilityDenied,
        pace: Pace,
    ) -> None:
        self._id = extension_id
        self._publish = publish
        self._transport = transport
        self._pace = pace
        self._opened: Transport | None = None
        self._running: list[asyncio.Task[None]] = []
        self.subscriptions: list[Subscription] = []

    async def publish(self, name: str, payload: Json) -> None:
        if isinstance(self._publish, CapabilityDenied):
            raise self._publish
        if not _NAME.fullmatch(name):
            raise ExtensionError(f"{name!r} is not an event name; 'order.paid' would be one")
        try:
            data = values.copy_json(payload)
        except values.NotJson as error:
            raise ExtensionError(f"event {name!r}{error.path}: {error.message}") from None
        await self._publish(Event(topic=f"ext.{self._id}.{name}", data=data))

    def subscribe(
        self, name: str, handler: Handler | None = None, *, group: str = "default"
    ) -> Any:
        if isinstance(self._transport, CapabilityDenied):
            raise self._transport
        if handler is None:
            return lambda decorated: self.subscribe(name, decorated, group=group)
        subscription = Subscription(self._stream(name), f"{self._id}:{group}", handler)
        self.subscriptions.append(subscription)
        if self._opened is not None:
            self._spawn(subscription)
        return handler

    async def dead_letters(self, name: str, *, limit: int = 100) -> list[Message]:
        if isinstance(self._transport, CapabilityDenied):
            raise self._transport
        if self._opened is None:
            raise ExtensionError("events can be read while the extension is started")
        stream = self._stream(name) + bus.DEAD
        found = await self._opened.tail(stream, after="0", block=0.001, limit=limit)
        return [_message(raw, self._pace.tries) for raw in found]

    async def __aenter__(self) -> EventsFacade:
        if not isinstance(self._transport, CapabilityDenied):
            self._opened = self._transport()
            await self._opened.__aenter__()
            for subscription in self.subscriptions:
                self._spawn(subscription)
        return self

    async def __aexit__(self, *details: object) -> None:
        running, self._running = self._running, []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.__aexit__(*details)

    def _spawn(self, subscription: Subscription) -> None:
        assert self._opened is not None
        consumer = Consumer(subscription, self._opened, self._pace)
        self._running.append(asyncio.create_task(consumer.run(), name=f"ext:{self._id}:events"))

    def _stream(self, name: str) -> str:
        if name == ALL_EVENTS:
            return bus.EVENTS
        if _NAME.fullmatch(name):
            return bus.extension_stream(self._id, name)
        if found := _FOREIGN_NAME.fullmatch(name):
            return bus.extension_stream(found["id"], found["name"])
        raise ExtensionError(f"{name!r} is not an event name; 'order.paid' would be one")


def _message(raw: bus.Message, attempt: int) -> Message:
    fields = raw.fields
    topic = fields.get("type", "")
    owned = re.fullmatch(r"ext\.[^.]+\.(.+)", topic)
    return Message(
        id=fields.get("id", raw.id),
        name=owned[1] if owned else topic,
        data=orjson.loads(fields["data"]) if "data" in fields else None,
        attempt=attempt,
    )
