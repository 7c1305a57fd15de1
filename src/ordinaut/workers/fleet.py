"""Several workers on one host: as many processes, started again when they end, stopped together.

Each child is an ``ordinaut worker`` of its own, with its own leases and its own sign of life in
``GET /workers``; they meet only in the database. A child holds one end of a pipe as its standard
input and drains when the other end closes, so none outlives a parent that was killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from ordinaut.config import Settings
from ordinaut.health import HealthServer
from ordinaut.model import Json
from ordinaut.telemetry import logger

FIRST_DELAY = 0.5  # seconds before a process that ended is started again
LONGEST_DELAY = 15.0  # seconds; the delay doubles while it keeps ending early
HEALTHY_AFTER = 30.0  # seconds of life after which an end counts as the first one

log = logger(__name__)


class Fleet:
    """Keeps ``count`` processes with the same arguments running."""

    def __init__(self, argv: Sequence[str], *, count: int) -> None:
        self._argv = argv
        self._count = count
        self._children: dict[int, Process] = {}  # by place
        self._ends = 0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run the processes until :meth:`stop`, and wait until all of them have left."""
        lifeline, ours = os.pipe()
        try:
            async with asyncio.TaskGroup() as group:
                for place in range(self._count):
                    group.create_task(self._keep(place, lifeline))
        finally:
            os.close(lifeline)
            os.close(ours)

    def stop(self) -> None:
        """Ask all processes to drain; a second time they hurry."""
        self._stopping.set()
        for child in self._children.values():
            _ask(child)

    def health(self) -> tuple[bool, dict[str, Json]]:
        """Tell whether all processes run."""
        pids: list[Json] = sorted(child.pid for child in self._children.values())
        missing = self._count - len(pids)
        status = "draining" if self._stopping.is_set() else "missing" if missing else "running"
        said: dict[str, Json] = {"status": status, "pids": pids, "restarts": self._ends}
        return status != "missing", said

    async def _keep(self, place: int, lifeline: int) -> None:
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once(place, lifeline)
            if self._stopping.is_set():
                return
            self._ends += 1
            if time.monotonic() - began > HEALTHY_AFTER:
                delay = FIRST_DELAY
            log.error("a worker process ended and is started again", exit_code=code, delay=delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, LONGEST_DELAY)

    async def _run_once(self, place: int, lifeline: int) -> int:
        child = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=lifeline,
            start_new_session=True,  # Ctrl-C is for the parent, which passes it on
        )
        self._children[place] = child
        if self._stopping.is_set():
            _ask(child)
        try:
            return await child.wait()
        finally:
            del self._children[place]


def _ask(child: Process) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)


async def serve(settings: Settings, *, processes: int) -> None:
    """Run so many workers until SIGTERM or SIGINT; a second signal cuts their drain short."""
    options = ["--concurrency", str(settings.worker_concurrency), "--health-port", "0"]
    argv = [sys.executable, "-m", "ordinaut", "worker", *options, "--processes", "1", "--child"]
    fleet = Fleet(argv, count=processes)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, fleet.stop)
    async with AsyncExitStack() as stack:
        if settings.worker_health_port:
            server = HealthServer(
                host=settings.host, port=settings.worker_health_port, check=fleet.health
            )
            await stack.enter_async_context(server)
        log.info("workers started", processes=processes)
        await fleet.run()
    log.info("workers stopped", processes=processes)
