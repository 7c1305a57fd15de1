"""The tick: time becomes work, once, and what does not become work has a verdict."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from ordinaut.scheduler import tick as scheduling
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.plan import CHUNK
from ordinaut.scheduler.tick import tick
from ordinaut.store import journal
from ordinaut.store.database import Database
from ticking import (
    START,
    add_task,
    after,
    enqueued,
    finish_runs,
    rows,
    state,
    tick_until,
    verdicts,
)


async def test_a_due_occurrence_becomes_one_run_and_the_next_is_known(db: Database):
    task = await add_task(db, "interval", "PT1H", starts_at=START)

    await tick_until(db, after(minutes=59))
    assert await enqueued(db, task) == []

    await tick_until(db, after(hours=1))
    await tick_until(db, after(hours=1))
    assert await enqueued(db, task) == [after(hours=1)]
    assert await state(db, task) == ("active", after(hours=2))


async def test_a_late_tick_drops_nothing(db: Database):
    task = await add_task(db, "interval", "PT10M", starts_at=START)

    await tick_until(db, after(hours=1, minutes=5))

    assert await enqueued(db, task) == [after(minutes=10 * n) for n in range(1, 7)]
    assert await verdicts(db, task) == {}


async def test_many_occurrences_of_one_task_are_decided_in_chunks(db: Database):
    task = await add_task(db, "interval", "PT1S", starts_at=START)

    results = await tick_until(db, after(seconds=2 * CHUNK + 500))

    assert [result.enqueued for result in results] == [CHUNK, CHUNK, 500]
    assert len(await enqueued(db, task)) == 2 * CHUNK + 500


async def test_tasks_with_much_to_decide_leave_every_other_its_turn(db: Database, monkeypatch):
    monkeypatch.setattr(scheduling, "MOST", 100)
    tasks = [await add_task(db, "interval", "PT1M", starts_at=START) for _ in range(5)]

    results = await tick_until(db, after(minutes=60))

    assert [result.enqueued for result in results] == [123, 119, 58]
    assert all([len(await enqueued(db, task)) == 60 for task in tasks])


async def test_a_tick_takes_no_more_tasks_than_its_limit(db: Database):
    tasks = [await add_task(db, "cron", "* * * * *") for _ in range(5)]

    results = await tick_until(db, after(minutes=1), limit=2)

    assert [result.enqueued for result in results] == [2, 2, 1]
    assert all([await enqueued(db, task) == [after(minutes=1)] for task in tasks])


async def test_racing_ticks_enqueue_each_occurrence_once(db: Database, database_url: str):
    tasks = [await add_task(db, "interval", "PT1M", starts_at=START) for _ in range(60)]

    async def scheduler() -> int:
        calendars, total = Calendars(), 0
        async with Database(database_url, size=2) as own:
            for minute in range(1, 11):
                for _ in range(12):
                    total += (
                        await tick(own, calendars, limit=7, now=after(minutes=minute))
                    ).enqueued
        return total

    totals = await asyncio.gather(*(scheduler() for _ in range(4)))
    await tick_until(db, after(minutes=10))

    for task in tasks:
        assert await enqueued(db, task) == [after(minutes=n) for n in range(1, 11)]
    assert await rows(db, "SELECT count(*) FROM fact WHERE topic = 'run.queued'") == [(600,)]
    assert sum(total > 0 for total in totals) > 1, "only one of the schedulers had work"


async def test_a_task_that_fires_once_is_completed(db: Database):
    task = await add_task(db, "once", "2026-03-02T09:00:00Z")

    await tick_until(db, after(hours=2))

    assert await enqueued(db, task) == [after(hours=1)]
    assert await state(db, task) == ("completed", None)
    assert await topics(db) == ["run.queued", "task.completed"]


async def test_a_task_ends_with_its_last_occurrence_before_ends_at(db: Database):
    task = await add_task(
        db, "cron", "0 * * * *", ends_at=after(hours=2, minutes=30), timezone="UTC"
    )

    await tick_until(db, after(hours=1))
    assert await state(db, task) == ("active", after(hours=2))
    await tick_until(db, after(hours=2))
    assert await state(db, task) == ("completed", None)


async def test_max_runs_counts_runs_and_not_what_was_skipped(db: Database):
    task = await add_task(db, "interval", "PT1M", starts_at=START, max_runs=2, overlap="skip")

    await tick_until(db, after(minutes=1))
    await tick_until(db, after(minutes=3))
    await finish_runs(db)
    await tick_until(db, after(minutes=20))

    assert await enqueued(db, task) == [after(minutes=4)]
    assert await verdicts(db, task) == {
        after(minutes=2): "skipped_overlap",
        after(minutes=3): "skipped_overlap",
    }
    assert await state(db, task) == ("completed", None)


async def test_jitter_delays_the_run_and_not_the_occurrence(db: Database):
    task = await add_task(db, "cron", "0 9 * * *", jitter_seconds=600)

    await tick_until(db, after(hours=1))
    [(state_, run_at)] = await rows(db, "SELECT state, run_at FROM due_work")

    assert await enqueued(db, task) == [after(hours=1)]
    assert state_ == "scheduled"
    assert timedelta() < run_at - after(hours=1) <= timedelta(seconds=600)

    [result] = await tick_until(db, run_at)
    assert result.promoted == 1


async def test_overlap_skip_runs_the_next_one_when_the_first_has_ended(db: Database):
    task = await add_task(db, "interval", "PT1M", starts_at=START, overlap="skip")

    await tick_until(db, after(minutes=1))
    await tick_until(db, after(minutes=2))
    await finish_runs(db)
    await tick_until(db, after(minutes=3))

    assert await enqueued(db, task) == [after(minutes=3)]
    assert await verdicts(db, task) == {after(minutes=2): "skipped_overlap"}


async def test_overlap_queue_lets_one_run_of_the_task_at_a_time(db: Database):
    task = await add_task(db, "interval", "PT1M", starts_at=START, overlap="queue")

    await tick_until(db, after(minutes=3))

    found = await rows(db, "SELECT DISTINCT concurrency_key, max_concurrency FROM due_work")
    assert found == [(f"task:{task}", 1)]


async def test_overlap_cancel_running_ends_the_earlier_run(db: Database):
    task = await add_task(db, "interval", "PT1M", starts_at=START, overlap="cancel_running")

    await tick_until(db, after(minutes=1))
    await tick_until(db, after(minutes=3))

    assert await enqueued(db, task) == [after(minutes=3)]
    assert await verdicts(db, task) == {after(minutes=2): "canceled"}
    assert await rows(db, "SELECT scheduled_for, status FROM task_run") == [
        (after(minutes=1), "canceled")
    ]


async def test_a_broken_schedule_pauses_its_task_and_stops_nobody(db: Database):
    broken = await add_task(db, "cron", "0 * * * *")
    sound = await add_task(db, "cron", "0 * * * *")
    async with db.connection() as tx:
        await tx.execute("UPDATE task SET timezone = 'Mars/Olympus' WHERE id = %s", (broken,))

    [result] = await tick_until(db, after(hours=1))

    assert (result.enqueued, result.broken) == (1, 1)
    assert await enqueued(db, sound) == [after(hours=1)]
    assert await state(db, broken) == ("paused", None)
    async with db.connection() as tx:
        [event] = await journal.read_events(tx, limit=9, topic="task.paused")
    assert event.event.task_id == broken
    assert "Mars/Olympus" in event.event.data["reason"]


async def test_a_task_whose_gap_is_too_long_to_search_is_paused_and_not_completed(db: Database):
    born = datetime(2026, 3, 2, 21, 59, 57, tzinfo=UTC)
    night = "BYHOUR=22,23,0,1,2,3,4,5,6"
    rule = f"RRULE:FREQ=SECONDLY\nEXRULE:FREQ=SECONDLY;{night}"
    task = await add_task(db, "rrule", rule, born=born)

    [result] = await tick_until(db, born + timedelta(seconds=5))

    assert result.broken == 1
    assert await state(db, task) == ("paused", None)
    async with db.connection() as tx:
        [event] = await journal.read_events(tx, limit=9, topic="task.paused")
    assert "taken away" in event.event.data["reason"]


async def test_a_run_that_the_database_refuses_pauses_its_task_and_stops_nobody(db: Database):
    refused = await add_task(db, "cron", "0 * * * *", concurrency_key="k")
    sound = [await add_task(db, "cron", "0 * * * *") for _ in range(3)]
    async with db.connection() as tx:
        await tx.execute(
            "ALTER TABLE due_work ADD CONSTRAINT no_key CHECK (concurrency_key IS NULL)"
        )

    [result] = await tick_until(db, after(hours=1))

    assert (result.enqueued, result.broken) == (3, 1)
    assert [await enqueued(db, task) for task in sound] == [[after(hours=1)]] * 3
    assert (await state(db, refused))[0] == "paused"


async def test_a_canceled_task_does_not_fire(db: Database):
    task = await add_task(db, "cron", "0 * * * *")
    async with db.connection() as tx:
        await tx.execute("UPDATE task SET status = 'canceled' WHERE id = %s", (task,))

    await tick_until(db, after(hours=3))

    assert await enqueued(db, task) == []
    assert await state(db, task) == ("canceled", None)


async def test_occurrences_that_a_gap_takes_away_have_a_verdict(db: Database):
    born = datetime(2026, 3, 6, 12, 0, tzinfo=UTC)  # DST begins on the 8th
    task = await add_task(
        db, "cron", "30 2 * * *", born=born, timezone="America/New_York", dst_gap="skip"
    )

    await tick_until(db, born + timedelta(days=4))

    assert [at.day for at in await enqueued(db, task)] == [7, 9, 10]
    [(at, verdict)] = (await verdicts(db, task)).items()
    assert (at.day, verdict) == (8, "skipped_dst")


async def topics(db: Database) -> list[str]:
    async with db.connection() as tx:
        events = await journal.read_events(tx, limit=1000)
    return [event.event.topic for event in reversed(events)]
