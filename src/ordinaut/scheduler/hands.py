"""The two hands of a scheduler: ticks go side by side while one is not enough.

A tick plans in Python and then waits for PostgreSQL. So when much is due, one hand plans while
PostgreSQL writes what the other has planned. They are to each other what two schedulers are:
each skips the rows that the other has locked.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.tick import LIMIT, TickResult, tick
from ordinaut.store.database import Database

FIRST = 250  # tasks of the first tick: what is due first need not wait for all the rest
HANDS = 2  # more would wait for the same interpreter
ENOUGH = 10_000  # occurrences, about a second, after which the caller has its turn


async def ticks(
    db: Database, calendars: Calendars, *, limit: int = LIMIT, now: datetime | None = None
) -> TickResult:
    """Tick once for a few tasks, and go on with both hands while more is due; return all they did.

    The arguments are those of :func:`tick`. What a hand raises is raised when the other has
    ended too.
    """
    first = await tick(db, calendars, limit=min(FIRST, limit), now=now)
    if not first.more:
        return first
    done = [first]

    async def hand() -> bool:
        while sum(one.enqueued + one.skipped for one in done) < ENOUGH:
            done.append(result := await tick(db, calendars, limit=limit, now=now))
            if not result.more:
                return False
        return True

    ends = await asyncio.gather(*(hand() for _ in range(HANDS)), return_exceptions=True)
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
