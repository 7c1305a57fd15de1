"""A test kit for extensions: a real host, without servers.

::

    from ordinaut.testing import extension_kit

    async def test_greets():
        async with extension_kit("path/to/greeter") as kit:
            assert await kit.call("greet", {"name": "Ana"}) == {"text": "Hello, Ana"}
            assert (await kit.client.get("/hello")).status_code == 200

What the kit replaces are the servers: events go through memory instead of PostgreSQL and Redis,
and every caller holds every scope. Loading, granting, states and routing are those of the
product.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from uuid import UUID

import httpx2
import orjson
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.types import Scope

from ordinaut import bus
from ordinaut.api import errors
from ordinaut.clock import Clock, SystemClock
from ordinaut.config import Settings
from ordinaut.engine import calls
from ordinaut.engine.tool import Report, ToolContext
from ordinaut.errors import InvalidArguments
from ordinaut.model import Event, Json, uuid7
from ordinaut.plugins import loader
from ordinaut.plugins.backend import Backend
from ordinaut.plugins.base import Services
from ordinaut.plugins.description import Description
from ordinaut.plugins.events import Pace
from ordinaut.plugins.host import ExtensionHost
from ordinaut.plugins.loader import Found

PACE = Pace(block=0.05, first_pause=0.001, handler=5.0)
DELIVERY_SECONDS = 10.0


class ExtensionKit:
    """One started extension and what it has said so far."""

    def __init__(
        self,
        host: ExtensionHost,
        extension_id: str,
        *,
        client: httpx2.AsyncClient,
        memory: Memory,
        app: FastAPI | None,
    ) -> None:
        self.host = host
        self.client = client
        self.reports: list[Report] = []
        self._id = extension_id
        self._memory = memory
        self._app = app

    @property
    def published(self) -> list[Event]:
        """The events that were published, in their order."""
        return self._memory.published

    @property
    def dead(self) -> list[bus.Entry]:
        """The dead letters: events whose handler failed to the last try."""
        return self._memory.dead

    @property
    def description(self) -> Description:
        """How the extension fares, as ``GET /extensions`` would show it."""
        return next(one for one in self.host.describe() if one.id == self._id)

    @property
    def routes(self) -> list[str]:
        """The routes it serves, as ``GET /hello``."""
        document = self._app.openapi() if self._app is not None else {"paths": {}}
        return [
            f"{method.upper()} {path}"
            for path, methods in document["paths"].items()
            for method in methods
        ]

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Json] | None = None,
        *,
        run_id: UUID | None = None,
        clock: Clock | None = None,
    ) -> Json:
        """Call a tool as a worker would; ``name`` may leave out ``ext.<id>.``."""
        full = name if name in self.host.tools else f"ext.{self._id}.{name}"
        tool = self.host.tools.get(full)
        given = dict(arguments or {})
        if tool.takes is not None and (found := tool.takes.problems(given, path="with")):
            text = "; ".join(f"{problem.path}: {problem.message}" for problem in found)
            raise InvalidArguments(f"{full} does not take these arguments: {text}")
        return await calls.call(
            tool, given, seconds=tool.timeout_seconds, context=self._context(run_id, clock)
        )

    async def deliver(self, name: str, payload: Json) -> None:
        """Bring an event to the extension, and wait until it was handled or is dead."""
        streams = {bus.EVENTS, bus.extension_stream(self._id, name)}
        listening = self.description.subscriptions
        groups = [(s["stream"], s["group"]) for s in listening if s["stream"] in streams]
        if not groups:
            raise LookupError(f"nobody is subscribed to {name!r}")
        await self._memory.deliver(f"ext.{self._id}.{name}", payload, to=groups)

    def _context(self, run_id: UUID | None, clock: Clock | None) -> ToolContext:
        return ToolContext(
            run_id=run_id or uuid7(),
            task_id=uuid7(),
            agent_id=uuid7(),
            step_id="step",
            index=None,
            attempt=1,
            clock_now=(clock or SystemClock()).now,
            sink=self.reports.append,
            loop=asyncio.get_running_loop(),
        )


@asynccontextmanager
async def extension_kit(
    extension: str | Path,
    *,
    config: Mapping[str, str] | None = None,
    grants: str | None = None,
    services: Services | None = None,
) -> AsyncIterator[ExtensionKit]:
    """Start one extension; raises its reason when it can not be started.

    ``extension`` is a folder, or the id of one that is built in or installed. ``config`` is
    what ``ORDINAUT_EXT_<ID>__<KEY>`` would hold, ``grants`` the operator's limit, ``services``
    what a built-in pack may ask of the core.
    """
    found = _find(extension)
    options = {key.lower(): value for key, value in (config or {}).items()}
    if grants is not None:
        options["grants"] = grants
    memory = Memory()
    host = ExtensionHost(
        _settings({found.id: {**options, "enabled": "true"}}),
        found=[found],
        authorize=_anyone,
        backend=Backend(memory.publish, lambda: memory, services=services, pace=PACE),
    )
    app = FastAPI()
    errors.install(app)
    app.mount("/ext", host.gateway)
    transport = httpx2.ASGITransport(app=app)
    async with (
        host,
        httpx2.AsyncClient(transport=transport, base_url=f"http://kit/ext/{found.id}") as client,
    ):
        started = await host.started(found.id)
        yield ExtensionKit(host, found.id, client=client, memory=memory, app=started.app)


class Memory:
    """The outbox, the relay and Redis, in the memory of one process.

    Extensions of strangers live in threads, so it waits on thread-safe queues.
    """

    def __init__(self) -> None:
        self.published: list[Event] = []
        self.dead: list[bus.Entry] = []
        self._lock = threading.Lock()
        self._queues: dict[tuple[str, str], SimpleQueue[bus.Message]] = {}
        self._handled: dict[tuple[str, str, str], threading.Event] = {}

    async def publish(self, event: Event) -> None:
        self.published.append(event)
        self._append(event.topic, event.data)

    async def deliver(self, topic: str, payload: Json, *, to: list[tuple[str, str]]) -> None:
        """Append an event and wait until the groups ``to`` have acknowledged it."""
        for one in to:
            self._queue(*one)
        for handled in self._append(topic, payload):
            if not await asyncio.to_thread(handled.wait, DELIVERY_SECONDS):
                raise TimeoutError(f"event {topic!r} was not handled in {DELIVERY_SECONDS:g} s")

    async def __aenter__(self) -> Memory:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def ensure_group(self, stream: str, group: str, *, start: str) -> None:
        self._queue(stream, group)

    async def read(
        self, stream: str, group: str, consumer: str, *, block: float, limit: int
    ) -> list[bus.Message]:
        waiting = self._queue(stream, group)
        try:
            return [await asyncio.to_thread(waiting.get, timeout=block)]
        except Empty:
            return []

    async def claim(
        self, stream: str, group: str, consumer: str, *, idle: float, limit: int
    ) -> list[bus.Message]:
        return []

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> None:
        for id in ids:
            self._handled[stream, group, id].set()

    async def tail(self, stream: str, *, after: str, block: float, limit: int) -> list[bus.Message]:
        buried = [entry for entry in self.dead if entry.stream == stream]
        return [bus.Message(stream, one.fields["id"], one.fields) for one in buried[:limit]]

    async def put(self, entry: bus.Entry) -> None:
        self.dead.append(entry)

    async def leave(self, stream: str, group: str, consumer: str) -> None:
        return None

    def _queue(self, stream: str, group: str) -> SimpleQueue[bus.Message]:
        with self._lock:
            return self._queues.setdefault((stream, group), SimpleQueue())

    def _append(self, topic: str, payload: Json) -> list[threading.Event]:
        id = str(uuid7())
        fields = {"id": id, "type": topic, "data": orjson.dumps(payload).decode()}
        _, extension_id, name = topic.split(".", 2)
        streams = {bus.EVENTS, bus.extension_stream(extension_id, name)}
        waits = []
        with self._lock:
            for (stream, group), waiting in self._queues.items():
                if stream in streams:
                    handled = self._handled[stream, group, id] = threading.Event()
                    waits.append(handled)
                    waiting.put(bus.Message(stream, id, fields))
        return waits


def _find(extension: str | Path) -> Found:
    if isinstance(extension, str) and extension.isidentifier():
        named = [one for one in loader.discover() if one.id == extension]
    else:
        named = list(loader.discover([Path(extension)], built_in=False, installed=False))
    if len(named) != 1:
        raise LookupError(f"{extension!r} names {len(named)} extensions, not one")
    return named[0]


async def _anyone(scope: Scope, needed: str) -> None:
    return None


def _settings(options: Mapping[str, Mapping[str, str]]) -> Settings:
    return Settings(
        database_url="postgresql://none.invalid/none",
        redis_url="redis://none.invalid",
        secret=SecretStr("s" * 32),
        ext_options=options,
    )
