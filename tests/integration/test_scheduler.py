"""The scheduler as a whole: it wakes when it must, relays, and says how it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from ordinaut.clock import Clock, SystemClock
from ordinaut.config import Settings
from ordinaut.model import Event
from ordinaut.scheduler.daemon import Scheduler
from ordinaut.scheduler.metronome import Metronome
from ordinaut.store import journal, schedules
from ordinaut.store.database import Database
from relaying import Reader
from ticking import add_task, rows

SECRET = "s" * 40


@asynccontextmanager
async def scheduler(
    database_url: str, redis_url: str, *, clock: Clock | None = None, **settings: str
) -> AsyncIterator[Scheduler]:
    configured = Settings(database_url=database_url, redis_url=redis_url, secret=SECRET, **settings)
    async with Scheduler(configured, clock or SystemClock()) as running:
        async with asyncio.timeout(10):
            while not running.health()[0]:  # noqa: ASYNC110  it is well after its first tick
                await asyncio.sleep(0.01)
        yield running


async def lateness(db: Database, task: UUID) -> timedelta:
    """Wait for the first run of a task and return how late it was enqueued."""
    async with asyncio.timeout(10):
        while True:
            found = await rows(
                db, "SELECT created_at - scheduled_for FROM due_work WHERE task_id = %s", task
            )
            if found:
                return found[0][0]
            await asyncio.sleep(0.02)


async def test_an_occurrence_is_enqueued_when_its_time_comes(
    db: Database, database_url: str, redis_url: str
):
    async with scheduler(database_url, redis_url):
        at = datetime.now(UTC) + timedelta(seconds=1.35)
        task = await add_task(db, "once", at.isoformat(), born=at - timedelta(seconds=2))

        late = await lateness(db, task)

    # The clock strikes each second anyway; only a scheduler that knows the instant is so quick.
    assert timedelta() <= late < timedelta(seconds=0.25)


async def test_a_hint_wakes_a_sleeping_scheduler(db: Database, database_url: str, redis_url: str):
    async with scheduler(database_url, redis_url):
        lates = []
        for _ in range(3):
            at = datetime.now(UTC) + timedelta(seconds=0.05)
            task = await add_task(db, "once", at.isoformat(), born=at - timedelta(seconds=2))
            async with db.connection() as tx:
                await schedules.hint(tx)
            lates.append(await lateness(db, task))

    assert sum(lates, timedelta()) / 3 < timedelta(seconds=0.25)


async def test_without_a_hint_it_looks_at_least_each_second(
    db: Database, database_url: str, redis_url: str
):
    async with scheduler(database_url, redis_url):
        at = datetime.now(UTC)
        task = await add_task(db, "once", at.isoformat(), born=at - timedelta(seconds=1))
        assert await lateness(db, task) < timedelta(seconds=2)


class Jumpy(SystemClock):
    """A machine's clock that somebody sets while its stopwatch goes on."""

    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


async def test_a_metronome_strikes_although_the_clock_is_set_back() -> None:
    clock = Jumpy()
    async with Metronome(clock) as metronome:
        await metronome.wait()
        clock.ahead = timedelta(hours=1)
        metronome.strike_in(timedelta(seconds=0.5))  # half a second before the clock is set back
        async with asyncio.timeout(5):
            await metronome.wait()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_set_loses_doubles_and_holds_up_nothing(
    db: Database, database_url: str, redis_url: str, hours: int
):
    clock = Jumpy()
    task = await add_task(db, "interval", "PT1S", born=datetime.now(UTC), catchup="all")
    yearly = await add_task(db, "cron", "0 0 1 1 *", born=datetime.now(UTC))
    await forget_tzdata(db, yearly)
    async with scheduler(database_url, redis_url, clock=clock):
        await lateness(db, task)
        await until_recomputed(db, yearly)  # the leader does it at its start, and each hour
        await forget_tzdata(db, yearly)
        clock.ahead = timedelta(hours=hours)
        await until_recomputed(db, yearly)
        begun = await latest(db)
        async with asyncio.timeout(15):
            while await latest(db) < begun + timedelta(seconds=3):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    times = [at for (at,) in await rows(db, "SELECT scheduled_for FROM due_work ORDER BY 1")]
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(seconds=1)}


async def latest(db: Database) -> datetime:
    [(at,)] = await rows(db, "SELECT max(scheduled_for) FROM due_work")
    assert isinstance(at, datetime)
    return at


async def forget_tzdata(db: Database, task: UUID) -> None:
    await rows(
        db, "UPDATE schedule SET tzdata = '2020.1' WHERE task_id = %s RETURNING task_id", task
    )


async def until_recomputed(db: Database, task: UUID) -> None:
    async with asyncio.timeout(10):
        while await rows(  # noqa: ASYNC110
            db, "SELECT 1 FROM schedule WHERE task_id = %s AND tzdata = '2020.1'", task
        ):
            await asyncio.sleep(0.05)


async def test_events_are_relayed_within_a_moment(db: Database, database_url: str, redis_url: str):
    async with scheduler(database_url, redis_url), Reader(redis_url) as reader:
        for number in range(1, 4):
            async with db.transaction() as tx:
                await journal.emit(tx, [Event("test.made", {"n": number})])
                await journal.hint(tx)
            await reader.has([number], within=5)


async def test_an_event_starts_a_task_at_once(db: Database, database_url: str, redis_url: str):
    await add_task(db, "event", "test.made", born=datetime.now(UTC))
    lates: list[tuple[timedelta]] = []
    async with scheduler(database_url, redis_url), asyncio.timeout(10):
        for number in range(1, 10):
            async with db.transaction() as tx:
                await journal.emit(tx, [Event("test.made", {})])
                await journal.hint(tx)
            while len(lates) < number:
                await asyncio.sleep(0.02)
                lates = await rows(
                    db,
                    "SELECT created_at - (payload #>> '{event,at}')::timestamptz FROM due_work",
                )

    assert sorted(lates)[4][0] < timedelta(seconds=0.05)


async def test_without_redis_it_ticks_all_the_same(db: Database, database_url: str):
    async with scheduler(database_url, "redis://127.0.0.1:1/0"):
        at = datetime.now(UTC)
        task = await add_task(db, "once", at.isoformat(), born=at - timedelta(seconds=1))
        assert await lateness(db, task) < timedelta(seconds=2)


async def test_two_schedulers_share_the_duties_and_both_tick(
    db: Database, database_url: str, redis_url: str
):
    async with (
        scheduler(database_url, redis_url) as one,
        scheduler(database_url, redis_url) as other,
    ):
        async with asyncio.timeout(10):
            while len(duties := one.health()[1]["duties"] + other.health()[1]["duties"]) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert sorted(duties) == ["housekeeping", "relay"]
        assert one.health()[0]
        assert other.health()[0]

    assert await rows(db, "SELECT state, count(*) FROM worker GROUP BY 1") == [("stopped", 2)]


async def test_a_scheduler_that_does_not_tick_says_that_it_is_not_well(
    database_url: str, redis_url: str
):
    settings = Settings(database_url=database_url, redis_url=redis_url, secret=SECRET)
    sleeping = Scheduler(settings, SystemClock())

    well, said = sleeping.health()
    assert not well
    assert said["status"] == "unhealthy"
