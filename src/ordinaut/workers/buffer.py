"""Leased work that no slot has taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Iterable
from uuid import UUID

from ordinaut.workers.job import Job


class Buffer:
    """A queue within the worker that knows how many slots wait for it."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._idle = 0  # slots in take(), also those that were woken and have not run yet
        self._spare = 0
        self._low = asyncio.Event()
        self._closed = False
        self.taken = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """What nobody has taken yet."""
        return tuple(self._jobs)

    def put(self, jobs: Iterable[Job]) -> None:
        """Add jobs and wake as many slots as can have one."""
        self._jobs.extend(jobs)
        for _ in range(min(len(self._jobs), len(self._takers))):
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)

    async def take(self) -> Job:
        """Return the next job, waiting for one if need be."""
        while (job := self.take_now()) is None:
            await self._wait()
        return job

    def take_now(self) -> Job | None:
        """Return the next job if there is one."""
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        self.taken += 1
        if len(self._jobs) < self._spare:
            self._low.set()
        return job

    async def _wait(self) -> None:
        taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        self._idle += 1
        self._low.set()
        try:
            await taker
        finally:
            self._idle -= 1

    async def room(self, ahead: int) -> int:
        """Wait until it is worth to fetch more, and return how much.

        That is one job for each waiting slot and ``ahead`` more; half of those may be missing
        before anything is fetched. 0 says that the buffer was closed.
        """
        self._spare = ahead - ahead // 2
        while not self._closed:
            if len(self._jobs) < self._idle + self._spare:
                return self._idle + ahead - len(self._jobs)
            self._low.clear()
            await self._low.wait()
        return 0

    def close(self) -> None:
        """Let :meth:`room` return: nothing more is fetched."""
        self._closed = True
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
