"""Loops that nothing but their owner ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import psycopg

from ordinaut.errors import Unavailable
from ordinaut.telemetry import logger

FIRST_PAUSE = 0.1  # seconds after a fault; each further one in a row doubles it
CANCEL_AGAIN = 0.3  # seconds
LONGEST_PAUSE = 2.0  # seconds: a server that comes back is not left waiting

# What a server that is away looks like: worth one line, not a traceback a second.
_AWAY = (psycopg.OperationalError, Unavailable, TimeoutError, OSError)

log = logger(__name__)


async def keep(name: str, run_once: Callable[[], Awaitable[None]]) -> None:
    """Call ``run_once`` for ever; after a fault wait a moment, longer each time, and go on."""
    faults = 0
    while True:
        try:
            await run_once()
        except Exception as error:
            _report(name, error, first=faults == 0)
            await asyncio.sleep(pause(faults))
            faults += 1
        else:
            if faults:
                log.info("loop.recovered", loop=name, faults=faults)
            faults = 0


def pause(faults: int) -> float:
    """Return the seconds to wait after so many faults in a row, spread so that peers part."""
    longest: float = min(FIRST_PAUSE * 2**faults, LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)


class Loops:
    """Loops that run side by side; stopping them waits until all have ended."""

    def __init__(self, loops: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._loops = loops
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Loops:
        self._tasks = [
            asyncio.create_task(keep(name, run_once), name=name)
            for name, run_once in self._loops.items()
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        pending = set(self._tasks)
        while pending:
            for task in pending:
                task.cancel()
            # Before Python 3.12 asyncio.wait_for may swallow a cancellation: then once more.
            pending = (await asyncio.wait(pending, timeout=CANCEL_AGAIN))[1]


def _report(name: str, error: Exception, *, first: bool) -> None:
    if not isinstance(error, _AWAY):
        log.exception("loop.fault", loop=name)
    elif first:
        log.warning("loop.waiting", loop=name, reason=str(error) or type(error).__name__)
