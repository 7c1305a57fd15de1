"""Two ticks side by side: nothing twice, nothing lost, whatever becomes of one of them."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import psycopg
import pytest

from ordinaut.scheduler import hands, tick
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.hands import ticks
from ordinaut.scheduler.plan import CHUNK
from ordinaut.scheduler.tick import TickResult
from ordinaut.store import queue
from ordinaut.store.database import Database
from ticking import START, add_task, after, enqueued, rows

TASKS = 40


class Watch:
    """Counts the ticks that are under way, and may break one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        self.limits: dict[object, list[int]] = {}  # of the ticks of each hand
        self.both = asyncio.Event()
        self.fault: BaseException | None = None
        self._enqueue = queue.enqueue
        monkeypatch.setattr(hands, "tick", self.tick)
        monkeypatch.setattr(queue, "enqueue", self.enqueue)
        monkeypatch.setattr(tick, "log", Mock())  # to draw a traceback may take longer than STALL

    async def tick(self, *args: object, limit: int, **more: object) -> TickResult:
        self.limits.setdefault(asyncio.current_task(), []).append(limit)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now > 1:
            self.both.set()
        try:
            return await tick.tick(*args, limit=limit, **more)
        finally:
            self.now -= 1

    async def enqueue(self, *args: object, **more: object) -> list:
        made = await self._enqueue(*args, **more)
        if self.now > 1 and (fault := self.fault):
            self.fault = None
            raise fault
        return made


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


async def burst(db: Database, minutes: int, *, limit: int = 3) -> list[TickResult]:
    results = []
    while not results or results[-1].more:
        results.append(await ticks(db, Calendars(), limit=limit, now=after(minutes=minutes)))
    return results


async def add_tasks(db: Database) -> list:
    kinds = [("interval", "PT1M"), ("cron", "* * * * *"), ("rrule", "FREQ=MINUTELY")]
    return [
        await add_task(db, *kinds[n % 3], **({} if n % 3 == 1 else {"starts_at": START}))
        for n in range(TASKS)
    ]


async def all_ran(db: Database, tasks: list, minutes: int) -> bool:
    due = [after(minutes=n) for n in range(1, minutes + 1)]
    queued = await rows(db, "SELECT count(*) FROM fact WHERE topic = 'run.queued'")
    return (
        all([set(due) <= set(await enqueued(db, task)) for task in tasks])
        and queued == await rows(db, "SELECT count(*) FROM due_work")
        and await rows(db, "SELECT task_id FROM due_work GROUP BY task_id, scheduled_for"
                           " HAVING count(*) > 1") == []
    )  # fmt: skip


async def test_when_one_tick_is_enough_there_is_no_other(db: Database, watch: Watch):
    await add_tasks(db)

    result = await ticks(db, Calendars(), now=after(minutes=1))

    assert (result.enqueued, result.more) == (TASKS, False)
    assert list(watch.limits.values()) == [[hands.FIRST]]


async def test_two_hands_enqueue_each_occurrence_once(db: Database, watch: Watch):
    tasks = await add_tasks(db)

    [first] = await burst(db, 1)
    for minutes in range(2, 5):
        await burst(db, minutes)

    assert first.enqueued >= TASKS
    assert watch.most == 2
    assert await all_ran(db, tasks, 4)


async def test_the_second_hand_begins_when_the_first_has_locked_all_it_may(
    db: Database, watch: Watch
):
    tasks = await add_tasks(db)
    enqueue = queue.enqueue

    async def waits_for_the_other(*args: object, **more: object) -> list:
        async with asyncio.timeout(5):
            await watch.both.wait()
        return await enqueue(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "enqueue", waits_for_the_other)
        await ticks(db, Calendars(), limit=3, now=after(minutes=1))

    assert await all_ran(db, tasks, 1)


async def test_a_hand_takes_up_to_twice_as_many_each_time(
    db: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hands, "FIRST", 2)
    await add_tasks(db)

    await ticks(db, Calendars(), limit=6, now=after(minutes=1))

    assert len(watch.limits) == 2
    for limits in watch.limits.values():
        assert limits == [2, 4, *[6] * TASKS][: len(limits)]
    assert 6 in max(watch.limits.values(), key=len)


async def test_what_two_hands_did_is_told_together(db: Database, watch: Watch):
    ends = [await add_task(db, "once", "2026-03-02T08:01:00Z") for _ in range(9)]
    broken = await add_task(db, "cron", "* * * * *")
    late = await add_task(db, "interval", "PT1M", starts_at=START, overlap="skip")
    jittered = await add_task(db, "once", "2026-03-02T08:01:00Z", jitter_seconds=30)
    async with db.connection() as tx:
        await tx.execute("UPDATE task SET timezone = 'Mars/Olympus' WHERE id = %s", (broken,))
    await burst(db, 1)
    [result] = await burst(db, 4)

    [(queued,)] = await rows(db, "SELECT count(*) FROM due_work")
    [(completed,)] = await rows(db, "SELECT count(*) FROM task WHERE status = 'completed'")
    assert queued == len([*ends, late, jittered])
    assert completed == len([*ends, jittered])
    assert (result.skipped, result.promoted, result.more) == (3, 1, False)


async def test_two_hands_give_way_after_enough(db: Database, watch: Watch, monkeypatch):
    monkeypatch.setattr(hands, "ENOUGH", 12)
    tasks = await add_tasks(db)

    results = await burst(db, 1)

    assert [result.more for result in results] == [True] * (len(results) - 1) + [False]
    assert all(12 <= result.enqueued <= 18 for result in results[:-1])
    assert sum(result.enqueued for result in results) >= TASKS
    assert await all_ran(db, tasks, 1)


async def test_a_task_with_much_to_decide_keeps_one_hand_busy(db: Database, watch: Watch):
    task = await add_task(db, "interval", "PT1S", starts_at=START)

    [result] = await burst(db, minutes := 2 * CHUNK // 60 + 1)

    assert result.enqueued == minutes * 60
    assert len(await enqueued(db, task)) == minutes * 60


async def test_a_hand_that_fails_is_told_when_the_other_has_ended(db: Database, watch: Watch):
    tasks = await add_tasks(db)
    watch.fault = psycopg.OperationalError("the connection is lost")

    with pytest.raises(psycopg.OperationalError, match="is lost"):
        await ticks(db, Calendars(), limit=3, now=after(minutes=1))

    assert watch.now == 0
    [(queued,)] = await rows(db, "SELECT count(*) FROM due_work")
    assert queued >= TASKS - 3, "the other hand went on"
    await burst(db, 1)
    assert await all_ran(db, tasks, 1)


async def test_a_run_that_the_database_refuses_stops_no_hand(db: Database, watch: Watch):
    tasks = await add_tasks(db)
    refused = await add_task(db, "cron", "* * * * *", concurrency_key="k")
    async with db.connection() as tx:
        await tx.execute(
            "ALTER TABLE due_work ADD CONSTRAINT no_key CHECK (concurrency_key IS NULL)"
        )

    [result] = await burst(db, 1)

    assert result.broken == 1
    assert await rows(db, "SELECT status FROM task WHERE id = %s", refused) == [("paused",)]
    assert await all_ran(db, tasks, 1)


async def test_two_hands_that_are_stopped_leave_nothing_half_done(db: Database, watch: Watch):
    tasks = await add_tasks(db)

    working = asyncio.create_task(ticks(db, Calendars(), limit=1, now=after(minutes=1)))
    await watch.both.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert watch.now == 0
    assert len(await rows(db, "SELECT FROM due_work")) < TASKS
    await burst(db, 1)
    assert await all_ran(db, tasks, 1)


async def test_a_session_that_is_ended_costs_nothing_but_its_own_tick(db: Database, watch: Watch):
    tasks = await add_tasks(db)
    enqueue = queue.enqueue
    ended = []

    async def ends_its_session(tx: psycopg.AsyncConnection, *args: object, **more: object) -> list:
        if watch.now > 1 and not ended:
            ended.append(True)
            await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return await enqueue(tx, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "enqueue", ends_its_session)
        with pytest.raises(psycopg.OperationalError):
            await ticks(db, Calendars(), limit=3, now=after(minutes=1))

    assert watch.now == 0
    await burst(db, 1)
    assert await all_ran(db, tasks, 1)
