"""Keeps what the worker holds: renews leases, stops lost and canceled runs, reports itself."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterable
from datetime import timedelta
from importlib import metadata
from uuid import UUID

import psycopg

from ordinaut.model import Json, Lease
from ordinaut.store import queue, workers
from ordinaut.telemetry import emit, logger
from ordinaut.workers.buffer import Buffer
from ordinaut.workers.clock import DatabaseClock
from ordinaut.workers.leaser import Leaser
from ordinaut.workers.line import Line, pause
from ordinaut.workers.settler import Settler
from ordinaut.workers.slots import Slots

REPORT = 5.0  # seconds between reports
STARTED = 0.2  # seconds after which a run that still runs is announced as started

log = logger(__name__)


class Heartbeat:
    """Owns the connection on which the worker keeps itself alive."""

    def __init__(
        self,
        line: Line,
        *,
        worker_id: UUID,
        lease_for: timedelta,
        clock: DatabaseClock,
        leaser: Leaser,
        buffer: Buffer,
        slots: Slots,
        settler: Settler,
    ) -> None:
        self._line = line
        self._worker_id = worker_id
        self._lease_for = lease_for
        self._clock = clock
        self._leaser = leaser
        self._buffer = buffer
        self._slots = slots
        self._settler = settler
        self._poked = asyncio.Event()
        self._renew_at = time.monotonic() + lease_for.total_seconds() / 3
        self._report_at = 0.0
        self.state: workers.State = "running"
        self.beat_at = time.monotonic()

    def poke(self) -> None:
        """Renew at once: somebody wants a run to stop."""
        self._poked.set()

    async def run(self) -> None:
        """Renew, announce and report for ever."""
        failures = 0
        while True:
            try:
                await self.run_once()
                failures = 0
                await self._wait()
            except psycopg.Error as error:
                failures += 1
                log.warning("a heartbeat failed and is tried again", error=str(error))
                await asyncio.sleep(pause(failures))

    async def run_once(self) -> None:
        """Do what is due."""
        self.announce()
        now = time.monotonic()
        if self._poked.is_set() or now >= self._renew_at:
            self._poked.clear()
            await self.renew()
            self._renew_at = now + self._lease_for.total_seconds() / 3
        if now >= self._report_at:
            await self.report()
            self._report_at = now + REPORT

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(STARTED):
                await self._poked.wait()
        except TimeoutError:
            return

    def held(self) -> dict[UUID, Lease]:
        """Return everything this worker holds, wherever it is."""
        found = {held.id: held for held in self._leaser.leases}
        found |= {job.lease.id: job.lease for job in self._buffer.jobs}
        found |= {job.lease.id: job.lease for _, job in self._slots.running()}
        found |= {held.id: held for held in self._settler.leases()}
        return found

    async def renew(self) -> None:
        """Renew every lease; let go of what is lost, stop what shall stop."""
        held = self.held()
        if not held:
            return
        tx = await self._line.open()
        kept = await queue.renew(
            tx, list(held.values()), worker_id=self._worker_id, lease_for=self._lease_for
        )
        self.beat_at = time.monotonic()
        self._stop(held.keys() - kept.keys(), [run_id for run_id, stop in kept.items() if stop])

    def _stop(self, lost: Iterable[UUID], canceled: Iterable[UUID]) -> None:
        gone, wanted = set(lost), set(canceled)
        self._buffer.remove(gone)
        for slot, job in self._slots.running():
            if job.lease.id in gone:
                emit("lease.lost", run_id=job.lease.id)
                log.warning("a run is not ours any more", run_id=str(job.lease.id))
                slot.stop("lost")
            elif job.lease.id in wanted:
                slot.stop("canceled")
        self._slots.cancel_unstarted(self._buffer.remove(wanted))

    def announce(self) -> None:
        """Write that runs have started which will not say so soon by their end."""
        before = self._clock.now() - timedelta(seconds=STARTED)
        for _, job in self._slots.running():
            if not job.announced and job.started_at is not None and job.started_at < before:
                job.announced = True
                job.announcement = self._settler.note(job.lease, announce=True)
                job.announcement.add_done_callback(_forget)

    async def report(self) -> None:
        """Write the sign of life and follow the database's clock."""
        tx = await self._line.open()
        asked_at = time.monotonic()
        reading = await workers.report(
            tx,
            self._worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=metadata.version("ordinaut"),
            state=self.state,
            details=self.details(),
        )
        self._clock.set(reading, asked_at=asked_at)
        self.beat_at = time.monotonic()

    def details(self) -> dict[str, Json]:
        """Return how the worker fares."""
        return {
            "slots": self._slots.count,
            "running": sum(1 for _ in self._slots.running()),
            "buffered": len(self._buffer),
            "taken": self._buffer.taken,
            "listening": self._leaser.listening,
        }


def _forget(written: asyncio.Future[None]) -> None:
    """Take the error, if any: a lost lease is found by the next renewal."""
    if not written.cancelled():
        written.exception()
