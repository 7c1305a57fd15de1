"""Keeps the buffer filled: leases as much as can start soon, and no more.

How much that is follows from the rate at which slots take work. A worker whose runs take
seconds holds one run for each slot; one that ends 30,000 runs a second reads ahead a moment's
worth, so that slots never wait for PostgreSQL. When nothing is ready, it sleeps until a NOTIFY
or the next look.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from uuid import UUID

import psycopg

from ordinaut.model import Lease
from ordinaut.store import queue
from ordinaut.store.database import Tx
from ordinaut.telemetry import emit, logger
from ordinaut.workers.buffer import Buffer
from ordinaut.workers.clock import DatabaseClock
from ordinaut.workers.job import Job
from ordinaut.workers.line import Line, pause
from ordinaut.workers.plans import Plans

AHEAD = 0.04  # seconds of work, at the present rate, that are leased before a slot is free
LEASES_AHEAD = 5  # or as much as is done while so many leases take, when they take long
MOST_AHEAD = 0.25  # seconds
LONG = 0.1  # seconds that a lease takes when dead rows lie before the living, kept by somebody
SELDOM = 10.0  # so many times as long as it took passes until the next that begins before them
LOOK = 1.0  # seconds between looks at an empty queue
LOOK_UNHEARD = 0.25  # the same while nobody listens for notifications

log = logger(__name__)


class Leaser:
    """Owns the connection on which work is leased."""

    def __init__(
        self,
        line: Line,
        *,
        worker_id: UUID,
        lease_for: timedelta,
        clock: DatabaseClock,
        buffer: Buffer,
        plans: Plans,
        held: Callable[[], Collection[UUID]],
    ) -> None:
        self._line = line
        self._worker_id = worker_id
        self._lease_for = lease_for
        self._clock = clock
        self._buffer = buffer
        self._plans = plans
        self._held = held
        self._news = asyncio.Event()
        self._stopping = False
        self._keyed = True
        self._turn = queue.START
        self._doubt = False
        self._rate = 0.0
        self._took = 0.0
        self._whole = 0.0  # seconds that a lease from the start of the order takes
        self._whole_at = 0.0  # when the next one is made
        self._mark: queue.Mark | None = None
        self._seen = (0, time.monotonic())
        self.listening = False
        self.leases: list[Lease] = []

    def wake(self) -> None:
        """Look at the queue at once: there is news."""
        self._news.set()

    def freed(self) -> None:
        """Look again if a concurrency key was full: a run of it may just have ended."""
        if self._keyed:
            self._news.set()

    def stop(self) -> None:
        """Lease no more; :meth:`run` returns."""
        self._stopping = True
        self._news.set()
        self._buffer.close()

    async def run(self) -> None:
        """Keep the buffer filled until :meth:`stop`."""
        failures = 0
        while not self._stopping:
            try:
                more = await self.run_once()
                failures = 0
            except psycopg.Error as error:
                self._doubt = True
                failures += 1
                log.warning("leasing failed and is tried again", error=str(error))
                await asyncio.sleep(pause(failures))
            else:
                if not more:
                    await self._sleep()

    async def run_once(self) -> bool:
        """Lease once when there is room; tell whether there may be more."""
        room = await self._buffer.room(self._ahead())
        if self._stopping:
            return True
        self._news.clear()
        tx = await self._line.open()
        if self._doubt:
            await self._clear_up(tx)
        began = time.monotonic()
        mark = self._mark if began < self._whole_at else None
        found = await queue.lease(
            tx,
            worker_id=self._worker_id,
            limit=room,
            lease_for=self._lease_for,
            keyed=self._keyed,
            turn=self._turn,
            beyond=mark,
        )
        self._learn(found, mark, began=began)
        self._keyed = found.keyed
        self.leases = found.leases
        await self._prepare(tx)
        return found.more

    def _learn(self, found: queue.Leased, mark: queue.Mark | None, *, began: float) -> None:
        """Note how long a lease took, and from where the next one looks.

        Once a lease from the start takes long, few are made: the work behind the mark comes
        meanwhile, what is more urgent or other agents' within the pause. Keys need the start.
        """
        now = time.monotonic()
        self._took += (now - began - self._took) / 4
        if mark is None:
            self._turn = found.turn  # who came behind a mark had no turn
            took = now - began  # one that is long says little, one that is short says all
            self._whole = min(took, self._whole + (took - self._whole) / 4)
            long = self._whole > LONG and not found.keyed
            self._whole_at = now + SELDOM * self._whole if long else 0.0
        if now < self._whole_at and (last := found.mark) is not None:
            self._mark = last if mark is None else mark._replace(place=last.place)

    async def _prepare(self, tx: Tx) -> None:
        if self.leases:
            # No run starts before it is due, not even by what two clocks differ.
            self._clock.reached(max(held.run_at for held in self.leases))
            self._buffer.put(await self._plans.jobs(tx, self.leases))
            emit("work.leased", runs=len(self.leases))
            self.leases = []

    async def _clear_up(self, tx: Tx) -> None:
        """After an error: go on with what is known to be leased, give back what is not."""
        await self._prepare(tx)
        known = list(self._held())
        await queue.reclaim(tx, worker_id=self._worker_id, known=known)
        self._doubt = False

    async def give_back(
        self, *, unstarted: Sequence[Job] = (), started: Sequence[Job] = ()
    ) -> None:
        """Put runs back into the queue at once, for other workers to take."""
        leases = [job.lease for job in unstarted] + self.leases
        tx = await self._line.open()
        await queue.release(
            tx,
            worker_id=self._worker_id,
            unstarted=leases,
            started=[job.lease for job in started],
        )
        self.leases = []
        if leases or started:
            await queue.hint(tx)

    def _ahead(self) -> int:
        """Return how many runs beyond the free slots may be held."""
        taken, at = self._seen
        now, passed = time.monotonic(), time.monotonic() - at
        if passed >= AHEAD / 4:
            rate = (self._buffer.taken - taken) / passed
            # Up at once and down slowly: a pause between two bursts is no reason to start over.
            self._rate = max(rate, self._rate * 0.7)
            self._seen = (self._buffer.taken, now)
        seconds = min(max(AHEAD, LEASES_AHEAD * self._took), MOST_AHEAD)
        return int(self._rate * seconds)

    async def _sleep(self) -> None:
        longest = LOOK if self.listening else LOOK_UNHEARD
        seconds = longest * random.uniform(0.75, 1.25)
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
