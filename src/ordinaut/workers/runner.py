"""A worker process: leases due work, executes it, settles it, and leaves without a trace.

::

    PostgreSQL ──lease──► Leaser ──► Buffer ──► Slots ──► Settler ──settle──► PostgreSQL
                            ▲          N runs at a time      ▲
                         Listener                        Heartbeat (renews everything above)

    Slots ──► Scribe ──what tools say──► PostgreSQL

    PostgreSQL ──conditions to poll──► Prober ──state, runs──► PostgreSQL

A stop goes from left to right: no more leases, what has not started goes back at once, what
runs may end in time or goes back as well, and the last flush comes before the connections close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg

from ordinaut.config import Settings
from ordinaut.engine.registry import ToolRegistry
from ordinaut.garbage import spare_what_lives
from ordinaut.health import HealthServer
from ordinaut.model import Json, uuid7
from ordinaut.plugins.host import ExtensionHost
from ordinaut.store import queue, secrets
from ordinaut.store.database import Database
from ordinaut.telemetry import logger
from ordinaut.workers.buffer import Buffer
from ordinaut.workers.clock import DatabaseClock
from ordinaut.workers.execution import Execution
from ordinaut.workers.heartbeat import Heartbeat
from ordinaut.workers.leaser import Leaser
from ordinaut.workers.line import BY_ID, BY_INDEX, Line
from ordinaut.workers.listener import Listener
from ordinaut.workers.plans import Plans
from ordinaut.workers.prober import Prober
from ordinaut.workers.scribe import Scribe
from ordinaut.workers.settler import Settler
from ordinaut.workers.slots import GRACE, Slots
from ordinaut.workers.vault import Vault

LAST_FLUSH = 10.0  # seconds for the last flush and release when the database does not answer
LAST_WORD = 1.0  # seconds for tasks of tools that are still there
SETTLERS = 2  # connections; while one waits for its commit, the other executes
SPARE_THREADS = 1_000  # a call that was given up keeps its thread; a thread starts when needed
STALE = 30.0  # seconds without an answer of the database after which a worker is not healthy

T = TypeVar("T")

log = logger(__name__)


class Worker:
    """All parts of one worker, wired together."""

    def __init__(self, settings: Settings, *, registry: ToolRegistry, grace: float = GRACE) -> None:
        self.id: UUID = uuid7()
        self._settings = settings
        lease_for = timedelta(seconds=settings.lease_seconds)
        clock = DatabaseClock()
        self._lines: list[Line] = []
        self._buffer = Buffer()
        self._settler = Settler(
            [self._line("settler", BY_ID) for _ in range(SETTLERS)],
            worker_id=self.id,
            clock=clock,
        )
        self._scribe = Scribe(self._line("scribe"), worker_id=self.id)
        vault = Vault(self._line("vault"), secrets.keyring(settings))
        self._slots = Slots(
            settings.worker_concurrency,
            buffer=self._buffer,
            execution=Execution(
                registry, self._settler, scribe=self._scribe, vault=vault, clock=clock
            ),
            settler=self._settler,
            clock=clock,
            grace=grace,
        )
        self._leaser = Leaser(
            self._line("leaser", BY_INDEX),
            worker_id=self.id,
            lease_for=lease_for,
            clock=clock,
            buffer=self._buffer,
            plans=Plans(registry),
            held=lambda: self._heartbeat.held().keys(),
        )
        self._heartbeat = Heartbeat(
            self._line("heartbeat", BY_ID),
            worker_id=self.id,
            lease_for=lease_for,
            clock=clock,
            leaser=self._leaser,
            buffer=self._buffer,
            slots=self._slots,
            settler=self._settler,
        )
        self._prober = self._probing(registry, vault, clock, grace)
        self._listener = self._listening()
        self._settler.settled = self._leaser.freed
        self._lasting = (
            self._heartbeat,
            self._settler,
            self._scribe,
            self._slots,
            self._listener,
        )

    def _probing(
        self, registry: ToolRegistry, vault: Vault, clock: DatabaseClock, grace: float
    ) -> Prober:
        return Prober(
            self._line("prober", BY_INDEX),
            worker_id=self.id,
            registry=registry,
            vault=vault,
            clock=clock,
            places=self._settings.worker_concurrency,
            grace=grace,
        )

    def _listening(self) -> Listener:
        actions = {
            queue.WORK_CHANNEL: self._leaser.wake,
            queue.CANCEL_CHANNEL: self._heartbeat.poke,
        }
        return Listener(self._line("listener", direct=True), actions=actions, heard=self._hear)

    def _line(self, name: str, options: str = "", *, direct: bool = False) -> Line:
        settings = self._settings
        url = settings.direct_url if direct else settings.database_url
        pooled = settings.pooled and not direct
        line = Line(url, name=f"ordinaut {name}", pooled=pooled, options=options)
        self._lines.append(line)
        return line

    def _hear(self, listening: bool) -> None:
        self._leaser.listening = listening

    async def run(self, *, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Work until ``stop``, then leave in order; ``hurry`` cuts short the wait for runs."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for line in self._lines:
                stack.push_async_callback(line.close)
            lasting = [
                group.create_task(part.run(), name=type(part).__name__) for part in self._lasting
            ]
            leasing = group.create_task(self._leaser.run(), name="Leaser")
            probing = group.create_task(self._prober.run(), name="Prober")
            log.info("worker started", worker_id=str(self.id), slots=self._slots.count)
            await stop.wait()
            self._heartbeat.state = "draining"
            self._leaser.stop()
            self._prober.stop()
            await leasing
            await self._drain(hurry)
            await probing
            for task in lasting:
                task.cancel()
        log.info("worker stopped", worker_id=str(self.id))

    async def _drain(self, hurry: asyncio.Event) -> None:
        """Give back what has not started, let the rest end in time, write everything down."""
        with contextlib.suppress(psycopg.Error, TimeoutError):
            async with asyncio.timeout(LAST_FLUSH):
                await self._heartbeat.report()
                await self._leaser.give_back(unstarted=self._buffer.drain())
        await _first(self._slots.vacant(), hurry.wait(), within=self._settings.drain_seconds)
        for slot, _ in self._slots.running():
            slot.stop("released")
        await _first(self._slots.vacant(), within=2 * self._slots.grace)
        try:
            async with asyncio.timeout(LAST_FLUSH):
                await self._settler.quiet()
                await self._leaser.give_back(started=self._slots.released)
                self._heartbeat.state = "stopped"
                await self._heartbeat.report()
        except (psycopg.Error, TimeoutError) as error:
            log.error("the last flush failed; leases will expire", error=str(error))

    def health(self) -> tuple[bool, dict[str, Json]]:
        """Tell whether the database answers, and how the worker fares."""
        age = time.monotonic() - self._heartbeat.beat_at
        healthy = age < STALE
        status = self._heartbeat.state if healthy else "unhealthy"
        details = {"status": status, "worker_id": str(self.id), "database_seconds_ago": age}
        return healthy, {**details, **self._heartbeat.details()}


async def serve(settings: Settings, *, child: bool = False) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal cuts the drain short.

    As a ``child`` it also stops when its standard input ends: its parent is gone.
    """
    threads = Threads(
        max_workers=settings.worker_concurrency + SPARE_THREADS, thread_name_prefix="tool"
    )
    loop = asyncio.get_running_loop()
    loop.set_default_executor(threads)
    db = Database(settings.database_url, pooled=settings.pooled, name="ordinaut tools")
    async with db:
        host = ExtensionHost(settings, db=db)
        await host.start_tools()
        spare_what_lives()
        try:
            await _serve(settings, Worker(settings, registry=host.tools), child=child)
        finally:
            await host.stop()
    stubborn = await _end_tasks()
    if threads.busy or stubborn:
        # The interpreter would wait for them.
        log.warning("leaving tools that do not stop", threads=threads.busy, tasks=stubborn)
        logging.shutdown()
        os._exit(0)


async def _end_tasks() -> int:
    """Cancel what tools have left behind, and return how many tasks do not heed it."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LAST_WORD)
    return sum(not task.done() for task in left)


async def _serve(settings: Settings, worker: Worker, *, child: bool) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())

    def orphaned() -> None:
        loop.remove_reader(sys.stdin)
        stop.set()

    if child:
        loop.add_reader(sys.stdin, orphaned)
    async with AsyncExitStack() as stack:
        if settings.worker_health_port:
            server = HealthServer(
                host=settings.host, port=settings.worker_health_port, check=worker.health
            )
            await stack.enter_async_context(server)
        await worker.run(stop=stop, hurry=hurry)


async def _first(*waits: Coroutine[Any, Any, object], within: float) -> None:
    """Wait until one of ``waits`` is over, at most so many seconds."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Threads(ThreadPoolExecutor):
    """The threads that synchronous tools run in; it knows how many are at work."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._open: set[Future[Any]] = set()

    @property
    def busy(self) -> int:
        return sum(1 for future in tuple(self._open) if future.running())

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future
