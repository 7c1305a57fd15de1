"""Running jobs side by side: bounded in number, their records written down in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

FLUSH_SECONDS = 0.05  # how long a record may wait for others before it is written down

_Result = TypeVar("_Result")
_Job: TypeAlias = Callable[[], Awaitable[_Result]]


async def run_side_by_side(
    jobs: Iterable[_Job[_Result]],
    *,
    limit: int,
    collect: Callable[[int, _Result], bool],
    flush: Callable[[], Awaitable[None]],
    waiting: Callable[[], int],
    batch: int,
) -> None:
    """Run ``jobs``, at most ``limit`` at once, and hand each result with its number to ``collect``.

    When ``collect`` returns ``False`` no more jobs are started; those that run are awaited.
    ``flush`` is called when ``waiting()`` records are ``batch`` or more, or wait too long. The
    rest is left to the caller. No job outlives this call.
    """
    rest = enumerate(jobs)
    active: dict[asyncio.Task[_Result], int] = {}
    loop = asyncio.get_running_loop()
    due = loop.time() + FLUSH_SECONDS
    try:
        while True:
            _fill(active, rest, limit)
            if not active:
                return
            timeout = max(0.0, due - loop.time()) if waiting() else None
            done, _ = await asyncio.wait(
                active, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            for task in sorted(done, key=active.__getitem__):
                if not collect(active.pop(task), task.result()):
                    rest = enumerate(())
            if waiting() >= batch or (waiting() and loop.time() >= due):
                await flush()
                due = loop.time() + FLUSH_SECONDS
    finally:
        await _stop(active)


def _fill(
    active: dict[asyncio.Task[_Result], int],
    rest: Iterator[tuple[int, _Job[_Result]]],
    limit: int,
) -> None:
    while len(active) < limit:
        number, job = next(rest, (0, None))
        if job is None:
            return
        active[asyncio.ensure_future(job())] = number


async def _stop(active: dict[asyncio.Task[_Result], int]) -> None:
    for task in active:
        task.cancel()
    if active:
        await asyncio.gather(*active, return_exceptions=True)
