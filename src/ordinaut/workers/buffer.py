"""Leased work that no slot has taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Iterable
from uuid import UUID

from ordinaut.workers.job import Job


class Buffer:
    """A queue within the worker that knows how many wait for it."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._low = asyncio.Event()
        self._mark = -1
        self._released = False
        self.taken = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def idle(self) -> int:
        """How many slots wait for work."""
        return len(self._takers)

    @property
    def jobs(self) -> Iterable[Job]:
        return tuple(self._jobs)

    def put(self, jobs: Iterable[Job]) -> None:
        """Add jobs and wake as many slots as can have one."""
        self._jobs.extend(jobs)
        for _ in range(min(len(self._jobs), len(self._takers))):
            _wake(self._takers.popleft())

    async def take(self) -> Job:
        """Return the next job, waiting for one if need be."""
        while not self._jobs:
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            self._low.set()
            try:
                await taker
            finally:
                if taker in self._takers:
                    self._takers.remove(taker)
        job = self._jobs.popleft()
        self.taken += 1
        if len(self._jobs) <= self._mark:
            self._low.set()
        return job

    async def wait_low(self, mark: int) -> None:
        """Wait until at most ``mark`` jobs are left (-1: never), or a slot waits."""
        self._mark = mark
        while len(self._jobs) > mark and not self._takers and not self._released:
            self._low.clear()
            await self._low.wait()

    def release_waiter(self) -> None:
        """Let :meth:`wait_low` return."""
        self._released = True
        self._low.set()

    def remove(self, ids: Container[UUID]) -> list[Job]:
        """Take out the jobs of these runs."""
        removed = [job for job in self._jobs if job.lease.id in ids]
        if removed:
            self._jobs = deque(job for job in self._jobs if job.lease.id not in ids)
        return removed

    def drain(self) -> list[Job]:
        """Take everything out."""
        jobs, self._jobs = list(self._jobs), deque()
        return jobs


def _wake(taker: asyncio.Future[None]) -> None:
    if not taker.done():
        taker.set_result(None)
