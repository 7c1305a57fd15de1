"""Events that are held in windows, and start a task together."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ordinaut.engine import windows as forms
from ordinaut.model import Event, Json
from ordinaut.scheduler import firing, windows
from ordinaut.scheduler.triggers import Triggers
from ordinaut.store import journal, schedules
from ordinaut.store import windows as store
from ordinaut.store.database import Database
from ordinaut.store.triggers import MAX_DEPTH
from queueing import enqueue, make_task, rows, work

START = datetime.now(UTC) + timedelta(hours=1)
DEBOUNCE = {"debounce_seconds": 5, "max_wait_seconds": 20}
BATCH = {"batch_seconds": 10, "max_events": 3}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


async def listener(db: Database, window: Json, expr: str = "order.paid", **columns: Any) -> UUID:
    """Store an event task as the API does: with its schedule, listening from now on."""
    task_id = await make_task(db, schedule_expr=expr, event_window=Jsonb(window), **columns)
    async with db.transaction() as tx:
        await schedules.set_next(tx, {task_id: None})
    return task_id


async def publish(db: Database, second: float, *data: Json, topic: str = "order.paid") -> None:
    async with db.transaction() as tx:
        await journal.emit(tx, [Event(topic, one) for one in data], now=at(second))


async def hear(db: Database) -> None:
    while await Triggers(db).run_once():
        pass


async def say(db: Database, second: float, *data: Json) -> None:
    await publish(db, second, *data)
    await hear(db)


async def started(db: Database, task_id: UUID) -> list[Any]:
    """Return, for each run, the payloads of its events."""
    found = await rows(
        db, "SELECT payload -> 'events' FROM due_work WHERE task_id = %s ORDER BY id", task_id
    )
    return [[event["payload"] for event in events] for (events,) in found]


async def about(db: Database) -> list[Any]:
    found = await rows(db, "SELECT payload #> '{event,window}' FROM due_work ORDER BY id")
    return [window for (window,) in found]


async def verdicts(db: Database) -> list[tuple[Any, ...]]:
    return await rows(db, "SELECT verdict, reason FROM occurrence ORDER BY scheduled_for")


async def held(db: Database) -> int:
    [(windows, events)] = await rows(
        db, "SELECT (SELECT count(*) FROM event_window), (SELECT count(*) FROM window_event)"
    )
    return int(windows + events)


# --- When a window ends ---------------------------------------------------------------------


async def test_one_run_when_it_has_been_quiet(db: Database) -> None:
    task_id = await listener(db, DEBOUNCE)
    for second in (0, 4, 8):
        await say(db, second, second)

    assert (await windows.close(db, now=at(12.9))).runs == 0
    assert (await windows.close(db, now=at(13))).runs == 1

    assert await started(db, task_id) == [[0, 4, 8]]
    [(event, trigger)] = await rows(db, "SELECT payload -> 'event', trigger FROM due_work")
    assert (event["payload"], event["depth"], trigger) == (8, 0, "event")
    assert event["window"] == {
        "key": "",
        "opened_at": at(0).isoformat(),
        "ended_by": "time",
        "count": 3,
        "dropped": 0,
    }
    assert await held(db) == 0


async def test_what_never_is_quiet_starts_at_the_latest_after_max_wait(db: Database) -> None:
    task_id = await listener(db, DEBOUNCE)
    for second in range(0, 24, 4):
        await say(db, second, second)
        await windows.close(db, now=at(second))

    assert await started(db, task_id) == [[0, 4, 8, 12, 16]]
    await windows.close(db, now=at(25))
    assert await started(db, task_id) == [[0, 4, 8, 12, 16], [20]]


async def test_a_batch_is_what_comes_within_a_time(db: Database) -> None:
    task_id = await listener(db, {"batch_seconds": 10})
    for second in (0, 5, 9.9):
        await say(db, second, second)

    await windows.close(db, now=at(9.99))
    assert await started(db, task_id) == []
    await windows.close(db, now=at(10))
    assert await started(db, task_id) == [[0, 5, 9.9]]


async def test_a_full_batch_starts_at_once(db: Database) -> None:
    task_id = await listener(db, BATCH)

    await say(db, 0, 1, 2, 3, 4, 5, 6, 7)
    await windows.close(db, now=at(0))
    assert await started(db, task_id) == [[1, 2, 3], [4, 5, 6]]
    await windows.close(db, now=at(10))

    assert (await started(db, task_id))[2:] == [[7]]
    assert [w["ended_by"] for w in await about(db)] == ["full", "full", "time"]


async def test_a_reader_that_is_late_makes_the_same_windows(db: Database) -> None:
    task_id = await listener(db, DEBOUNCE)
    for second in (0, 3, 60, 61, 120):
        await publish(db, second, second)

    await hear(db)
    await windows.close(db, now=at(1000))

    assert await started(db, task_id) == [[0, 3], [60, 61], [120]]


async def test_each_key_has_its_own_window(db: Database) -> None:
    task_id = await listener(db, {**BATCH, "by": "payload.customer"})
    await say(db, 0, {"customer": "a"}, {"customer": 7}, {"customer": "a"}, {}, "no object")

    await windows.close(db, now=at(10))

    assert {w["key"]: w["count"] for w in await about(db)} == {"a": 2, "7": 1, "": 2}
    assert len(await started(db, task_id)) == 3


async def test_too_many_keys_end_the_windows_that_would_end_first(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_OPEN", 2)
    await listener(db, {"batch_seconds": 10, "by": "payload"})
    for second, key in enumerate("abcd"):
        await say(db, second, key)

    await windows.close(db, now=at(3))

    assert [(w["key"], w["ended_by"]) for w in await about(db)] == [("a", "room"), ("b", "room")]


async def test_events_that_do_not_fit_are_counted(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "MAX_EVENTS", 3)
    task_id = await listener(db, DEBOUNCE)
    for number in range(6):
        await say(db, number / 10, number)

    await windows.close(db, now=at(60))

    assert await started(db, task_id) == [[0, 1, 5]]
    assert [(w["count"], w["dropped"]) for w in await about(db)] == [(6, 3)]


async def test_a_window_is_bounded_in_bytes(db: Database) -> None:
    large = "x" * (forms.MAX_BYTES // 3)
    quiet = await listener(db, DEBOUNCE)
    batch = await listener(db, {"batch_seconds": 10})
    await say(db, 0, *[large + str(number) for number in range(5)])

    await windows.close(db, now=at(10))

    [events] = await started(db, quiet)
    assert [event[-1] for event in events] == ["0", "4"]
    found = await started(db, batch)
    assert [event[-1] for events in found for event in events] == list("01234")
    assert max(len(events) for events in found) == 2


# --- Exactly one ----------------------------------------------------------------------------


async def test_two_schedulers_that_race_put_each_event_into_one_run(db: Database) -> None:
    task_id = await listener(db, {"batch_seconds": 10, "max_events": 7, "by": "payload.key"})
    loops = [Triggers(db), Triggers(db)]
    for number in range(60):
        await publish(db, number, {"key": number % 3, "number": number})
        await asyncio.gather(
            *(loop.run_once() for loop in loops),
            *(windows.close(db, now=at(number)) for _ in range(2)),
        )
    await hear(db)
    await asyncio.gather(*(windows.close(db, now=at(1000)) for _ in range(4)))

    runs = await started(db, task_id)
    assert sorted(event["number"] for events in runs for event in events) == list(range(60))
    assert all(len({event["key"] for event in events}) == 1 for events in runs)
    assert await held(db) == 0


async def test_a_kill_between_taking_a_window_and_closing_it_loses_nothing(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await listener(db, DEBOUNCE)
    await say(db, 0, 1, 2)
    real = firing.write

    async def killed(tx: Any, *given: Any, **more: Any) -> None:
        await real(tx, *given, **more)
        async with db.connection() as other:
            await other.execute("SELECT pg_terminate_backend(%s)", (tx.info.backend_pid,))

    with monkeypatch.context() as patched:
        patched.setattr(firing, "write", killed)
        with pytest.raises(psycopg.OperationalError):
            await windows.close(db, now=at(60))
    assert await started(db, task_id) == []

    await windows.close(db, now=at(60))
    await windows.close(db, now=at(61))
    assert await started(db, task_id) == [[1, 2]]


async def test_a_kill_between_holding_an_event_and_moving_on_holds_it_once(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await listener(db, DEBOUNCE)
    await publish(db, 0, 1, 2)
    real = windows.hold

    async def killed(tx: Any, *given: Any, **more: Any) -> int:
        await real(tx, *given, **more)
        async with db.connection() as other:
            await other.execute("SELECT pg_terminate_backend(%s)", (tx.info.backend_pid,))
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(windows, "hold", killed)
        with pytest.raises(psycopg.OperationalError):
            await Triggers(db).run_once()
    assert await held(db) == 0

    await hear(db)
    await windows.close(db, now=at(60))
    assert await started(db, task_id) == [[1, 2]]


# --- The task in between --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ("status = 'paused'", "skipped_paused", "the task was paused when its window of 2 events"),
        ("status = 'canceled'", "canceled", "the task is over, and a window of 2 events was open"),
        ("deleted_at = now()", "canceled", "the task is over, and a window of 2 events was open"),
        ("schedule_kind = 'cron'", "canceled", "the task listens for no events any more"),
    ],
)
async def test_a_window_of_a_task_that_does_not_start_gets_a_verdict(
    db: Database, change: str, verdict: str, reason: str
) -> None:
    task_id = await listener(db, DEBOUNCE)
    await say(db, 0, 1, 2)
    await rows(db, f"UPDATE task SET {change} WHERE id = %s RETURNING id", task_id)

    closed = await windows.close(db, now=at(60))

    assert (closed.runs, closed.skipped) == (0, 1)
    assert await started(db, task_id) == []
    [(given, why)] = await verdicts(db)
    assert given == verdict
    assert why.startswith(reason)
    assert await held(db) == 0
    assert await rows(db, "SELECT count(*) FROM fact WHERE topic = 'task.skipped'") == [(1,)]


async def test_a_verdict_leaves_the_schedule_of_a_task_that_a_clock_starts_now(
    db: Database,
) -> None:
    task_id = await listener(db, DEBOUNCE)
    await say(db, 0, 1)
    await rows(db, "UPDATE task SET schedule_kind = 'cron' WHERE id = %s RETURNING id", task_id)
    async with db.transaction() as tx:
        await schedules.set_next(tx, {task_id: at(500)})

    await windows.close(db, now=at(60))

    assert await rows(db, "SELECT next_run_at FROM schedule") == [(at(500),)]


async def test_what_is_open_of_a_task_that_changed_ends(db: Database) -> None:
    task_id = await listener(db, DEBOUNCE)
    await say(db, 0, 1)
    async with db.transaction() as tx:
        await store.seal(tx, task_id, now=at(1))

    await say(db, 1, 2)
    await windows.close(db, now=at(1))
    await windows.close(db, now=at(60))

    assert await started(db, task_id) == [[1], [2]]
    assert [w["ended_by"] for w in await about(db)] == ["change", "time"]


async def test_a_window_counts_as_one_run_of_max_runs(db: Database) -> None:
    task_id = await listener(db, {**BATCH, "by": "payload"}, max_runs=1)
    await say(db, 0, "a", "b", "a")

    await windows.close(db, now=at(60))

    assert await started(db, task_id) == [["a", "a"]]
    assert [verdict for verdict, _ in await verdicts(db)] == ["canceled"]
    assert await rows(db, "SELECT status FROM task WHERE id = %s", task_id) == [("completed",)]


async def test_a_window_is_skipped_while_a_run_goes_on(db: Database) -> None:
    task_id = await listener(db, DEBOUNCE, overlap="skip")
    for second in (0, 60):
        await say(db, second, second)
        await windows.close(db, now=at(second + 5))

    assert await started(db, task_id) == [[0]]
    assert [verdict for verdict, _ in await verdicts(db)] == ["skipped_overlap"]


async def test_a_window_is_as_deep_as_its_deepest_event(db: Database) -> None:
    task_id = await listener(db, DEBOUNCE)
    other = await make_task(db, schedule_expr="nothing")
    for depth in (3, MAX_DEPTH):
        [run_id] = await enqueue(db, work(other, payload={"event": {"depth": depth}}))
        async with db.transaction() as tx:
            await journal.emit(tx, [Event("order.paid", depth, run_id=run_id)], now=at(0))
    await publish(db, 0, "outside")

    await hear(db)
    await windows.close(db, now=at(60))

    [(event,)] = await rows(
        db, "SELECT payload -> 'event' FROM due_work WHERE task_id = %s", task_id
    )
    assert (event["depth"], event["window"]["count"]) == (4, 2)
    [(verdict, reason)] = await verdicts(db)
    assert verdict == "canceled"
    assert "16 runs that started each other" in reason
