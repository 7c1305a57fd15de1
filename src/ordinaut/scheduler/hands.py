"""The two hands of a scheduler: ticks go side by side while one is not enough.

A tick plans in Python and then waits for PostgreSQL. So when much is due, one hand plans while
PostgreSQL writes what the other has planned. They are to each other what two schedulers are:
each skips the rows that the other has locked. The second begins as soon as the first has locked
all it may take.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.tick import LIMIT, TickResult, tick
from ordinaut.store.database import Database

FIRST = 200  # tasks of a hand's first tick: what is due first need not wait for all the rest
ENOUGH = 10_000  # occurrences, about a second, after which the caller has its turn


async def ticks(
    db: Database, calendars: Calendars, *, limit: int = LIMIT, now: datetime | None = None
) -> TickResult:
    """Tick with one hand, and with both while that is not enough; return all they did.

    The arguments are those of :func:`tick`; each tick of a hand takes up to twice as many tasks as
    the one before. What a hand raises is raised when the other has ended too.
    """
    done: list[TickResult] = []
    needed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def call(both: bool = True) -> None:
        if not needed.done():
            needed.set_result(both)

    async def hand() -> bool:
        size = FIRST
        while sum(one.enqueued + one.skipped for one in done) < ENOUGH:
            result = await tick(db, calendars, limit=min(size, limit), now=now, full=call)
            done.append(result)
            if not result.more:
                return False
            call()
            size *= 2
        return True

    async def first() -> bool:
        try:
            return await hand()
        finally:
            call(both=False)

    async def second() -> bool:
        return await needed and await hand()

    ends = await asyncio.gather(first(), second(), return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return TickResult(
        enqueued=sum(one.enqueued for one in done),
        skipped=sum(one.skipped for one in done),
        completed=sum(one.completed for one in done),
        broken=sum(one.broken for one in done),
        promoted=sum(one.promoted for one in done),
        more=any(ends),
    )
