"""APScheduler as this daemon's clockwork: one store in memory, one in PostgreSQL.

Users' schedules are rows that the tick reads (``scheduler.tick``), never APScheduler jobs. What
APScheduler times is the daemon itself: when the tick looks next, and the cluster's housekeeping.

APScheduler stops for ever when its job store raises while it updates a job: the exception ends
its thread, or keeps its timer from being set again. :class:`_Steadfast` closes that hole.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime, timedelta
from threading import Thread
from typing import Any

from apscheduler.executors.base import BaseExecutor, run_coroutine_job
from apscheduler.executors.debug import DebugExecutor
from apscheduler.job import Job
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from ordinaut.clock import Clock, SystemClock
from ordinaut.store.migrate import sqlalchemy_url
from ordinaut.telemetry import logger

AT_WORST = timedelta(seconds=1)  # between two ticks, whatever was heard or not heard
RETRY = 2.0  # seconds until APScheduler looks again after a fault of its store
CONNECT_TIMEOUT = 3  # seconds
STOP_TIMEOUT = 1.0  # seconds for APScheduler to stop; its thread may hang in the database

# Late jobs run, once: none is dropped for being late.
_DEFAULTS = {"coalesce": True, "misfire_grace_time": None, "max_instances": 1}

log = logger(__name__)


class _Steadfast:
    """Keeps a scheduler going when looking for its jobs fails."""

    def _process_jobs(self) -> float | None:
        try:
            seconds: float | None = super()._process_jobs()  # type: ignore[misc]  # a mixin
        except Exception:
            log.exception("metronome.fault")
            return RETRY
        return seconds


class _LoopScheduler(_Steadfast, AsyncIOScheduler):  # type: ignore[misc]  # no stubs
    pass


class _ThreadScheduler(_Steadfast, BackgroundScheduler):  # type: ignore[misc]  # no stubs
    pass


class Metronome:
    """Says when to tick: at the instant last asked for, when nudged, at worst every second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due = asyncio.Event()
        self._scheduler = _LoopScheduler(
            jobstores={"default": MemoryJobStore()},
            executors={"default": DebugExecutor()},  # calls at once, from the event loop
            job_defaults=_DEFAULTS,
            timezone="UTC",
        )
        # The job that wakes us is never replaced, only moved: no fault can lose it.
        self._job = self._scheduler.add_job(
            self._due.set, IntervalTrigger(seconds=AT_WORST.total_seconds(), timezone="UTC")
        )

    async def __aenter__(self) -> Metronome:
        self._scheduler.start()
        self.nudge()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._scheduler.shutdown(wait=False)

    def nudge(self) -> None:
        """Let :meth:`wait` return at once."""
        self._due.set()

    def strike_in(self, delay: timedelta) -> None:
        """Let :meth:`wait` return after ``delay``, if that is sooner than it would anyway."""
        if delay < AT_WORST:
            self._job.modify(next_run_time=self._clock.now() + max(delay, timedelta()))

    async def wait(self) -> None:
        """Wait until it is time to tick."""
        # APScheduler goes by the machine's clock: when that is set back, it would sleep so long.
        with suppress(TimeoutError):
            async with asyncio.timeout(1.5 * AT_WORST.total_seconds()):
                await self._due.wait()
        self._due.clear()


class Housekeeping:
    """The cluster's jobs in PostgreSQL, executed by the leader alone.

    A thread asks the job store, because that blocks; the jobs are coroutines on our own loop,
    in ``context``. They are stored as names of functions without arguments.
    """

    def __init__(self, url: str, jobs: Sequence[tuple[str, timedelta]], context: Context) -> None:
        self._jobs = jobs
        store = SQLAlchemyJobStore(
            url=sqlalchemy_url(url),
            engine_options={
                "pool_size": 1,
                "pool_pre_ping": True,
                # A pooler in transaction mode does not know what another session prepared.
                "connect_args": {"connect_timeout": CONNECT_TIMEOUT, "prepare_threshold": None},
            },
        )
        self._store = store
        self._scheduler = _ThreadScheduler(
            jobstores={"default": store},
            executors={"default": _LoopExecutor(asyncio.get_running_loop(), context)},
            job_defaults=_DEFAULTS,
            timezone="UTC",
        )

    async def start(self) -> None:
        """Put the jobs into the store, drop those that this version does not know, and begin."""
        await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """Execute nothing any more; a thread that hangs in the database is left to itself."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        Thread(target=self._stop, args=(loop, stopped), daemon=True).start()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await stopped.wait()
        except TimeoutError:
            log.warning("housekeeping.hangs", seconds=STOP_TIMEOUT)

    def _start(self) -> None:
        now = SystemClock().now()  # the clock that APScheduler goes by
        self._scheduler.start(paused=True)
        for name, every in self._jobs:
            self._scheduler.add_job(
                name,
                IntervalTrigger(seconds=every.total_seconds(), timezone="UTC"),
                id=name,
                next_run_time=now,
                replace_existing=True,
            )
        known = {name for name, _ in self._jobs}
        for job in self._scheduler.get_jobs():
            if job.id not in known:
                job.remove()
        self._scheduler.resume()

    def _stop(self, loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        self._store.engine.dispose()
        if not loop.is_closed():
            loop.call_soon_threadsafe(stopped.set)


class _LoopExecutor(BaseExecutor):  # type: ignore[misc]  # no stubs
    """Runs coroutine jobs of a scheduler thread on an event loop, in a context of ours."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        super().__init__()
        self._loop = loop
        self._context = context
        self._tasks: set[asyncio.Task[Any]] = set()

    def shutdown(self, wait: bool = True) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _do_submit_job(self, job: Job, run_times: list[datetime]) -> None:
        self._loop.call_soon_threadsafe(self._begin, job, run_times, context=self._context)

    def _begin(self, job: Job, run_times: list[datetime]) -> None:
        task = self._loop.create_task(
            run_coroutine_job(job, job._jobstore_alias, run_times, self._logger.name)
        )
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(job.id, done))

    def _end(self, job_id: str, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        try:
            self._run_job_success(job_id, task.result())
        except BaseException:
            self._run_job_error(job_id, *sys.exc_info()[1:])
