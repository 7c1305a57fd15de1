"""What the tests of the relay share: events in the outbox, and what a reader of Redis saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from uuid import UUID

from ordinaut import bus as transport
from ordinaut.bus import Bus
from ordinaut.clock import SystemClock
from ordinaut.errors import Unavailable
from ordinaut.model import Event
from ordinaut.scheduler.loops import keep
from ordinaut.scheduler.spine import Relay
from ordinaut.store import journal
from ordinaut.store.database import Database

ROOM = 1_000  # places between one row of the outbox and the next


def number(id: str) -> int:
    """Return which row of the outbox has this id, from 1."""
    return int(id) // ROOM


async def publish(db: Database, count: int, *, tasks: int = 5, batch: int = 500) -> None:
    """Write ``count`` events about ``tasks`` tasks, some at a time."""
    for start in range(0, count, batch):
        numbers = range(start, min(start + batch, count))
        async with db.transaction() as tx:
            await journal.emit(
                tx, [Event("test.made", {"n": n}, UUID(int=n % tasks)) for n in numbers]
            )


async def relay_all(relay: Relay) -> None:
    """Relay until nothing is left."""
    while await relay.run_once():
        pass


@asynccontextmanager
async def relaying(db: Database, url: str, *, batch: int = 200) -> AsyncIterator[None]:
    """Run a relay beside the test."""
    async with Bus(url) as bus:
        relay = Relay(db, bus, SystemClock(), batch=batch)

        async def run_once() -> None:
            if not await relay.run_once():
                await asyncio.sleep(0.01)

        task = asyncio.create_task(keep("relay", run_once))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Reader:
    """Reads the stream of all events, whatever happens to Redis, and remembers what it saw."""

    def __init__(self, url: str) -> None:
        self.seen: list[tuple[int, str]] = []  # id and task, in the order of arrival
        self._url = url
        self._last = "0"
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reader:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def ids(self) -> set[int]:
        return {id for id, _ in self.seen}

    async def has(self, ids: Iterable[int], *, within: float) -> None:
        """Wait until all these events were seen."""
        wanted = set(ids)
        async with asyncio.timeout(within):
            while not wanted <= self.ids:
                self._more.clear()
                await self._more.wait()

    def first_seen(self) -> dict[str, list[int]]:
        """Return the events of each task in the order in which each was first seen."""
        firsts = dict.fromkeys(self.seen)
        orders: dict[str, list[int]] = {}
        for id, task in firsts:
            orders.setdefault(task, []).append(id)
        return orders

    async def _read(self) -> None:
        while True:
            try:
                async with Bus(self._url) as bus:
                    await self._follow(bus)
            except Unavailable:
                await asyncio.sleep(0.02)

    async def _follow(self, bus: Bus) -> None:
        while True:
            found = await bus.tail(transport.EVENTS, after=self._last, block=0.2, limit=2_000)
            for message in found:
                self.seen.append((number(message.fields["id"]), message.fields.get("taskid", "")))
                self._last = message.id
            if found:
                self._more.set()
