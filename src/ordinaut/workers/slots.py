"""The slots of a worker: long-lived coroutines that execute one run at a time.

A run that shall stop is cancelled first, and abandoned when it has not stopped after a grace:
its slot is replaced, its result is written without it, and what it returns one day is dropped.

Runs that may have killed a worker are suspects. They start one after the other and are noted
before they start, so that the next crash is blamed on the one that caused it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Literal, TypeAlias

from ordinaut.clock import Clock
from ordinaut.engine.outcome import Failed
from ordinaut.errors import LeaseLost, StepTimeout
from ordinaut.telemetry import emit
from ordinaut.workers.buffer import Buffer
from ordinaut.workers.execution import Execution, Result
from ordinaut.workers.job import Job, Plan
from ordinaut.workers.settler import Settler

GRACE = 5.0  # seconds between asking a run to stop and going on without it
PROOF = 10.0  # seconds that a suspect has the suspects' turn for itself
TURN = 0.01  # seconds that all slots together take before the event loop has its turn

Why: TypeAlias = Literal["canceled", "deadline", "lost", "released"]


class Slot:
    """One place for one run."""

    __slots__ = ("_pool", "_timers", "job", "task", "why")

    def __init__(self, pool: Slots) -> None:
        self._pool = pool
        self._timers: list[asyncio.TimerHandle] = []
        self.job: Job | None = None
        self.why: Why | None = None
        self.task: asyncio.Task[None] | None = None

    def stop(self, why: Why) -> None:
        """Ask the run to stop; a second reason does not replace the first."""
        if self.job is not None and self.why is None and self.task is not None:
            self.why = why
            self.task.cancel()
            self.after(self._pool.grace, lambda: self._pool.abandon(self))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later unless the run has ended by then."""
        self._timers.append(asyncio.get_running_loop().call_later(seconds, action))

    def clear(self) -> None:
        """Get ready for the next run."""
        self.job = None
        if self._timers:
            self._reset()

    def _reset(self) -> None:
        while self._timers:
            self._timers.pop().cancel()
        if self.why is not None:
            self.why = None
            while self.task is not None and self.task.cancelling():
                self.task.uncancel()


class Slots:
    """A number of slots that take from one buffer and settle into one settler."""

    def __init__(
        self,
        count: int,
        *,
        buffer: Buffer,
        execution: Execution,
        settler: Settler,
        clock: Clock,
        grace: float = GRACE,
    ) -> None:
        self.grace = grace
        self._buffer = buffer
        self._execution = execution
        self._settler = settler
        self._clock = clock
        self._suspects = asyncio.Lock()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._leaving = False
        self._vacated = asyncio.Event()
        self._broken: asyncio.Future[None]
        self._slots = [Slot(self) for _ in range(count)]
        self._turn = TURN / count
        self.released: list[Job] = []

    @property
    def count(self) -> int:
        return len(self._slots)

    async def run(self) -> None:
        """Keep all slots going; raises what a slot raises, which is a fault of ours."""
        self._broken = asyncio.get_running_loop().create_future()
        for slot in self._slots:
            self._start(slot)
        try:
            await self._broken
        finally:
            await self._close()

    async def _close(self) -> None:
        """End all slots; what they still run is cut off."""
        tasks = {slot.task for slot in self._slots if slot.task is not None} | self._abandoned
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=self.grace)

    def running(self) -> Iterator[tuple[Slot, Job]]:
        """Yield the slots that have a run."""
        return ((slot, slot.job) for slot in tuple(self._slots) if slot.job is not None)

    async def vacant(self) -> None:
        """Wait until no slot has a run."""
        self._leaving = True
        while any(True for _ in self.running()):
            self._vacated.clear()
            await self._vacated.wait()

    def cancel_unstarted(self, jobs: Iterable[Job]) -> None:
        """Settle runs that shall stop before they have begun."""
        for job in jobs:
            job.announced = True  # it never started
            self._conclude(job, self._execution.canceled(job))

    def abandon(self, slot: Slot) -> None:
        """Go on without a run that does not stop."""
        job, why, task = slot.job, slot.why, slot.task
        if job is None or why is None or task is None:
            return
        emit("run.abandoned", run_id=job.lease.id, why=why)
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)
        fresh = Slot(self)
        self._slots[self._slots.index(slot)] = fresh
        slot.job = None
        self._conclude(job, self._stopped(job, why))
        self._start(fresh)

    def _start(self, slot: Slot) -> None:
        slot.task = asyncio.get_running_loop().create_task(self._work(slot))
        slot.task.add_done_callback(self._check)

    def _check(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _work(self, slot: Slot) -> None:
        took_over = monotonic()
        take, take_now = self._buffer.take, self._buffer.take_now
        while slot.task not in self._abandoned:
            await self._run(slot, take_now() or await take())
            if monotonic() - took_over >= self._turn:
                await asyncio.sleep(0)
                if self._settler.crowded:
                    await self._settler.room()
                took_over = monotonic()

    async def _run(self, slot: Slot, job: Job) -> None:
        slot.job = job
        job.started_at = self._clock.now()
        result: Result | None
        try:
            if job.is_plain:
                result = await self._execution.perform(job)
            else:
                result = await self._perform(slot, job)
        except asyncio.CancelledError:
            if slot.job is not job or slot.why is None:
                raise
            result = self._stopped(job, slot.why)
        except LeaseLost:
            result = None
        except Exception as error:  # of our own code: the run fails, the worker goes on
            result = self._execution.crashed(job, error)
        if slot.job is job:  # else it was abandoned, and all is said
            slot.clear()
            self._conclude(job, result)

    def _conclude(self, job: Job, result: Result | None) -> None:
        if job.announcement is not None and not job.announcement.done():
            # The flushes of both may overlap, and the start must not come after the end.
            job.announcement.add_done_callback(lambda _: self._conclude(job, result))
            return
        if result is not None:
            self._settler.settle(result)
        if self._leaving:
            self._vacated.set()

    async def _perform(self, slot: Slot, job: Job) -> Result:
        plan = job.plan
        if isinstance(plan, Plan) and plan.definition.timeout_seconds is not None:
            slot.after(plan.definition.timeout_seconds, lambda: slot.stop("deadline"))
        if not job.lease.crashes:
            return await self._execution.perform(job)
        async with self._turn_of_suspects(slot):
            announce, job.announced = not job.announced, True
            await self._settler.note(job.lease, announce=announce)
            job.started_at = self._clock.now()
            return await self._execution.perform(job)

    @asynccontextmanager
    async def _turn_of_suspects(self, slot: Slot) -> AsyncIterator[None]:
        """Let one suspect start at a time; one that has lived for a while lets the next start."""
        await self._suspects.acquire()
        held = [self._suspects]

        def give_up() -> None:
            if held:
                held.pop().release()

        slot.after(PROOF, give_up)
        try:
            yield
        finally:
            give_up()

    def _stopped(self, job: Job, why: Why) -> Result | None:
        """Return what is written about a run that was stopped."""
        match why:
            case "canceled":
                return self._execution.canceled(job)
            case "deadline":
                return self._overdue(job)
            case "released":
                self.released.append(job)
        return None

    def _overdue(self, job: Job) -> Result:
        assert isinstance(job.plan, Plan)  # nothing else has a deadline
        seconds = job.plan.definition.timeout_seconds
        error = StepTimeout(f"the run did not end within {seconds:g} s")
        return self._execution.result(job, job.plan, Failed(error, (), attempt=job.lease.attempt))
