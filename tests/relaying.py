"""What the tests of the relay share: events in the outbox, and what a reader of Redis saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from ordinaut import bus as transport
from ordinaut.bus import Bus
from ordinaut.clock import SystemClock
from ordinaut.errors import Unavailable
from ordinaut.scheduler.loops import keep
from ordinaut.scheduler.spine import Relay
from ordinaut.store.database import Database

ROOM = 1_000  # places between one row of the outbox and the next


def number(id: str) -> int:
    """Return which row of the outbox has this id, from 1."""
    return int(id) // ROOM


async def publish(db: Database, count: int, *, tasks: int = 5, batch: int = 500) -> None:
    """Write ``count`` events about ``tasks`` tasks, some at a time."""
    for start in range(0, count, batch):
        size = min(batch, count - start)
        async with db.transaction() as tx:
            await tx.execute(
                "INSERT INTO event (topic, task_id, data)"
                " SELECT 'test.made', lpad(to_hex(n %% %s), 32, '0')::uuid,"
                "        jsonb_build_object('n', n) FROM generate_series(0, %s - 1) AS n",
                (tasks, size),
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
        self.ids: set[int] = set()
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
                id = number(message.fields["id"])
                self.ids.add(id)
                self.seen.append((id, message.fields.get("taskid", "")))
                self._last = message.id
            if found:
                self._more.set()
