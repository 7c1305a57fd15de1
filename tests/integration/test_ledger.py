"""Absences, pauses, snoozes and backfills: every occurrence has its run or its reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from ordinaut.engine.calendar import parse_calendar
from ordinaut.engine.schedule import compile_schedule
from ordinaut.model import Catchup, uuid7
from ordinaut.scheduler.plan import CHUNK
from ordinaut.store import backfill, ledger, pulse, schedules
from ordinaut.store.database import Database
from ticking import (
    AGENT,
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


async def beat(db: Database, now: datetime) -> None:
    async with db.connection() as tx:
        await pulse.beat(tx, now=now)


async def stop_schedulers(db: Database, *, at: datetime, until: datetime) -> None:
    """Let no scheduler run in between, and the first one start at ``until``."""
    async with db.connection() as tx:
        await tx.execute("UPDATE pulse SET at = %s", (at,))
    await beat(db, until)


async def pause(db: Database, task: UUID, at: datetime) -> None:
    async with db.transaction() as tx:
        await schedules.pause(tx, [task], now=at)
        await tx.execute("UPDATE task SET status = 'paused' WHERE id = %s", (task,))


async def resume(db: Database, task: UUID, at: datetime, *, catchup: Catchup | None = None) -> None:
    async with db.transaction() as tx:
        [timed] = await schedules.load(tx, [task])
        following = compile_schedule(timed.schedule).next(timed.decided_until)
        await schedules.resume(tx, {task: following and following.at}, catchup=catchup, now=at)
        await tx.execute("UPDATE task SET status = 'active' WHERE id = %s", (task,))


async def test_a_restart_within_seconds_is_no_downtime(db: Database):
    await stop_schedulers(db, at=START, until=after(seconds=4))
    assert await rows(db, "SELECT began_at, ended_at FROM downtime") == []

    await beat(db, after(seconds=10))
    assert await rows(db, "SELECT began_at, ended_at FROM downtime") == [
        (after(seconds=4), after(seconds=10))
    ]


@pytest.mark.parametrize(
    ("catchup", "ran", "others"),
    [("last", [50], "coalesced"), ("all", [10, 20, 30, 40, 50], None), ("none", [], "missed")],
)
async def test_catchup_decides_on_what_fell_into_a_downtime(
    db: Database, catchup: str, ran: list[int], others: str | None
):
    task = await add_task(db, "interval", "PT10M", starts_at=START, catchup=catchup)
    await stop_schedulers(db, at=after(minutes=5), until=after(minutes=55))

    await tick_until(db, after(minutes=55))

    assert await enqueued(db, task) == [after(minutes=m) for m in ran]
    missed = {10, 20, 30, 40, 50} - set(ran)
    assert await verdicts(db, task) == {after(minutes=m): others for m in sorted(missed)}


async def test_an_occurrence_later_than_the_window_is_missed_with_the_reason(db: Database):
    task = await add_task(
        db, "interval", "PT1H", starts_at=START, catchup="all", catchup_window_seconds=7200
    )
    await stop_schedulers(db, at=START, until=after(hours=5, minutes=30))

    await tick_until(db, after(hours=5, minutes=30))

    assert await enqueued(db, task) == [after(hours=4), after(hours=5)]
    assert set((await verdicts(db, task)).values()) == {"missed"}
    async with db.connection() as tx:
        entries = await ledger.occurrences(tx, task, after=START, until=after(hours=9), limit=100)
    assert [entry.verdict for entry in entries] == ["started"] * 2 + ["missed"] * 3
    assert entries[-1].reason == (
        "no scheduler was running from 2026-03-02 08:00:00Z to 2026-03-02 13:30:00Z;"
        " later than the catch-up window of 2 hours"
    )


async def test_what_was_late_without_a_downtime_runs_whatever_its_age(db: Database):
    task = await add_task(
        db, "interval", "PT1H", starts_at=START, catchup="none", catchup_window_seconds=60
    )
    await tick_until(db, after(hours=3, minutes=59))

    assert await enqueued(db, task) == [after(hours=n) for n in (1, 2, 3)]


async def test_a_long_downtime_is_decided_in_chunks_and_runs_once(db: Database):
    task = await add_task(db, "interval", "PT1S", starts_at=START, catchup="last")
    end = after(seconds=2 * CHUNK + 300.5)
    await stop_schedulers(db, at=START, until=end)

    results = await tick_until(db, end)

    assert [result.skipped for result in results] == [CHUNK, CHUNK, 299]
    assert await enqueued(db, task) == [after(seconds=2 * CHUNK + 300)]


async def test_resuming_runs_the_last_occurrence_of_the_pause(db: Database):
    task = await add_task(db, "interval", "PT10M", starts_at=START)
    await pause(db, task, after(minutes=5))
    await tick_until(db, after(minutes=30))
    assert await state(db, task) == ("paused", None)

    await resume(db, task, after(minutes=35))
    await tick_until(db, after(minutes=35))

    assert await enqueued(db, task) == [after(minutes=30)]
    assert await verdicts(db, task) == {
        after(minutes=10): "skipped_paused",
        after(minutes=20): "skipped_paused",
    }
    assert await state(db, task) == ("active", after(minutes=40))


@pytest.mark.parametrize(("catchup", "ran"), [("all", [10, 20, 30]), ("none", [])])
async def test_resuming_may_answer_the_catchup_question_itself(
    db: Database, catchup: Catchup, ran: list[int]
):
    task = await add_task(db, "interval", "PT10M", starts_at=START)
    await pause(db, task, after(minutes=5))
    await resume(db, task, after(minutes=35), catchup=catchup)

    await tick_until(db, after(minutes=45))

    assert await enqueued(db, task) == [after(minutes=m) for m in [*ran, 40]]


async def test_an_occurrence_that_was_due_before_the_pause_still_runs(db: Database):
    task = await add_task(db, "interval", "PT10M", starts_at=START)
    await pause(db, task, after(minutes=12))
    await resume(db, task, after(minutes=15), catchup="none")

    await tick_until(db, after(minutes=16))

    assert await enqueued(db, task) == [after(minutes=10)]


async def test_an_hour_without_scheduler_over_a_dst_change_and_two_pauses_is_explained(
    db: Database,
):
    # Chisinau, 2026-03-29: 03:00 becomes 04:00 at 01:00Z. Every ten minutes by the wall clock.
    night = datetime(2026, 3, 29, 0, 0, tzinfo=UTC)

    def at(minutes: float) -> datetime:
        return night + timedelta(minutes=minutes)

    task = await add_task(
        db, "cron", "*/10 * * * *", born=night, timezone="Europe/Chisinau", catchup="last"
    )
    await tick_until(db, at(30))
    await pause(db, task, at(42))
    await resume(db, task, at(55), catchup="none")
    await pause(db, task, at(65))
    await resume(db, task, at(75), catchup="none")
    await stop_schedulers(db, at=at(31), until=at(91))

    await tick_until(db, at(91))

    async with db.connection() as tx:
        entries = await ledger.occurrences(tx, task, after=night, until=at(95), limit=100)
    told = {round((e.scheduled_for - night) / timedelta(minutes=1)): e for e in entries}
    down = "no scheduler was running from 2026-03-29 00:31:00Z to 2026-03-29 01:31:00Z"
    assert {minute: entry.verdict for minute, entry in sorted(told.items())} == {
        10: "started",
        20: "started",
        30: "started",
        40: "coalesced",
        50: "skipped_paused",
        60: "coalesced",
        70: "skipped_paused",
        80: "coalesced",
        90: "started",
    }
    assert told[40].reason == f"{down}; a later occurrence runs for it"
    assert told[50].reason == (
        "the task was paused from 2026-03-29 00:42:00Z to 2026-03-29 00:55:00Z"
    )
    assert told[70].reason.startswith("the task was paused from 2026-03-29 01:05:00Z")
    assert await state(db, task) == ("active", at(100))


async def test_a_snooze_moves_exactly_the_next_occurrence(db: Database):
    task = await add_task(db, "interval", "PT1H", starts_at=START)
    async with db.transaction() as tx:
        moved = await schedules.snooze(
            tx, task, occurrence=after(hours=1), to=after(hours=2.5), following=after(hours=2)
        )
    assert moved

    await tick_until(db, after(hours=1))
    assert await enqueued(db, task) == []
    await tick_until(db, after(hours=2))
    assert await enqueued(db, task) == [after(hours=2)]
    assert await state(db, task) == ("active", after(hours=2.5))
    await tick_until(db, after(hours=2.5))

    found = await rows(db, "SELECT scheduled_for, run_at FROM due_work ORDER BY 1")
    assert found == [(after(hours=1), after(hours=2.5)), (after(hours=2), after(hours=2))]
    assert await state(db, task) == ("active", after(hours=3))


async def test_a_snoozed_last_occurrence_keeps_its_task_active(db: Database):
    task = await add_task(db, "once", "2026-03-02T09:00:00Z")
    async with db.transaction() as tx:
        await schedules.snooze(
            tx, task, occurrence=after(hours=1), to=after(hours=3), following=None
        )
    await tick_until(db, after(hours=2))
    assert await state(db, task) == ("active", after(hours=3))

    await tick_until(db, after(hours=3))
    assert await enqueued(db, task) == [after(hours=1)]
    assert await state(db, task) == ("completed", None)


async def test_an_excluded_day_has_a_verdict_that_names_its_calendar(db: Database):
    definition = {"dates": ["2026-03-04"]}
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO agent (id, name) VALUES (%s, 'tester')", (AGENT,))
        await tx.execute(
            "INSERT INTO calendar (id, name, definition, created_by) VALUES (%s, %s, %s, %s)",
            (uuid7(), "holidays", Jsonb(definition), AGENT),
        )
    task = await add_task(
        db,
        "cron",
        "0 9 * * *",
        exclude=["holidays"],
        calendars={"holidays": parse_calendar("holidays", definition)},
    )

    for day in range(5):
        await tick_until(db, after(days=day, hours=1))

    assert [at.day for at in await enqueued(db, task)] == [2, 3, 5, 6]
    assert await verdicts(db, task) == {after(days=2, hours=1): "skipped_calendar"}
    [(reason,)] = await rows(db, "SELECT reason FROM occurrence")
    assert "holidays" in reason


async def test_a_backfill_runs_only_what_has_no_run(db: Database):
    task = await add_task(db, "interval", "PT1H", starts_at=START, catchup="none")
    await tick_until(db, after(hours=1))
    await stop_schedulers(db, at=after(hours=1.5), until=after(hours=3.5))
    await tick_until(db, after(hours=4))
    assert await enqueued(db, task) == [after(hours=1), after(hours=4)]

    first = await run_backfill(db, task, since=START, until=after(hours=9))
    second = await run_backfill(db, task, since=START, until=after(hours=9))

    assert (len(first.run_ids), first.occurrences) == (3, 5)
    assert second.run_ids == []
    async with db.connection() as tx:
        entries = await ledger.occurrences(
            tx, task, after=after(minutes=-1), until=after(hours=9), limit=9
        )
    assert [e.verdict for e in reversed(entries)] == [
        "backfilled",
        "started",
        "backfilled",
        "backfilled",
        "started",
    ]


async def test_a_backfill_goes_on_where_its_limit_ended_it(db: Database):
    task = await add_task(db, "interval", "PT1M", starts_at=START, overlap="skip")
    await tick_until(db, after(minutes=10))
    await finish_runs(db)

    part = await run_backfill(db, task, since=after(minutes=1), until=after(minutes=10), limit=4)

    assert len(part.run_ids) == 4
    assert part.go_on_after == after(minutes=4)


async def run_backfill(
    db: Database, task: UUID, *, since: datetime, until: datetime, limit: int = 100
) -> backfill.Backfilled:
    async with db.transaction() as tx:
        [timed] = await schedules.load(tx, [task])
        return await backfill.backfill(
            tx,
            timed,
            compile_schedule(timed.schedule),
            since=since,
            until=until,
            limit=limit,
            now=until,
        )
