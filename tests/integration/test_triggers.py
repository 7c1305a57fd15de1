"""Event tasks: each event starts each task that listens for it exactly once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from ordinaut.model import Event, Json
from ordinaut.scheduler import triggers
from ordinaut.scheduler.triggers import Triggers
from ordinaut.store import journal, schedules
from ordinaut.store.database import Database
from ordinaut.store.triggers import MAX_DEPTH
from queueing import ended, lease, make_task, rows, settle


async def listener(db: Database, expr: str, **columns: Any) -> UUID:
    """Store an event task as the API does: with its schedule, listening from now on."""
    task_id = await make_task(db, schedule_expr=expr, **columns)
    async with db.transaction() as tx:
        await schedules.set_next(tx, {task_id: None})
    return task_id


async def publish(db: Database, topic: str, data: Json = None, **ids: Any) -> None:
    async with db.transaction() as tx:
        await journal.emit(tx, [Event(topic, {} if data is None else data, **ids)])


async def fire(db: Database) -> None:
    """Do what a scheduler does until nothing is left."""
    while await Triggers(db).run_once():
        pass


async def heard(db: Database, task_id: UUID) -> list[Json]:
    """Return the payloads of the events that started a task, in their order."""
    found = await rows(
        db,
        "SELECT payload #> '{event,payload}' FROM due_work"
        " WHERE task_id = %s AND trigger = 'event' ORDER BY id",
        task_id,
    )
    return [payload for (payload,) in found]


async def test_an_event_starts_the_tasks_that_listen_for_its_topic(db: Database) -> None:
    task_id = await listener(db, "order.paid", priority=7)
    other = await listener(db, "order.lost")

    await publish(db, "order.paid", {"total": 9}, subject="order 7")
    await fire(db)

    [(event, priority, scheduled_for)] = await rows(
        db, "SELECT payload -> 'event', priority, scheduled_for FROM due_work"
    )
    assert (event.pop("id").isdigit(), event.pop("at")[-6:]) == (True, "+00:00")
    assert event == {
        "topic": "order.paid",
        "subject": "order 7",
        "task_id": None,
        "run_id": None,
        "payload": {"total": 9},
        "depth": 0,
    }
    assert (priority, scheduled_for) == (7, None)
    assert await heard(db, task_id) == [{"total": 9}]
    assert await heard(db, other) == []


async def test_two_schedulers_that_race_start_each_task_once_for_each_event(db: Database) -> None:
    task_id = await listener(db, "order.*")
    loops = [Triggers(db), Triggers(db)]

    for number in range(40):
        await publish(db, "order.paid", number)
        await asyncio.gather(*(loop.run_once() for loop in loops))
    await fire(db)

    assert await heard(db, task_id) == list(range(40))


async def test_an_event_that_is_committed_late_is_not_passed_over(db: Database) -> None:
    task_id = await listener(db, "order.paid")
    async with db.transaction() as tx:
        await journal.emit(tx, [Event("order.paid", "early")])
        await publish(db, "order.paid", "late")
        await fire(db)
        assert await heard(db, task_id) == ["late"]
    await fire(db)

    assert await heard(db, task_id) == ["late", "early"]


async def test_more_events_than_fit_one_transaction_all_start_the_task(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "PAGE", 3)
    task_id = await listener(db, "order.paid")
    async with db.transaction() as tx:
        await journal.emit(tx, [Event("order.paid", number) for number in range(8)])

    await fire(db)

    assert await heard(db, task_id) == list(range(8))


async def test_a_round_that_fails_starts_nothing_and_loses_nothing(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await listener(db, "order.paid")
    await publish(db, "order.paid", 1)
    with monkeypatch.context() as patched:
        patched.setattr(triggers.triggers, "move_place", _fail)
        with pytest.raises(ConnectionError):
            await Triggers(db).run_once()
    assert await heard(db, task_id) == []

    await fire(db)

    assert await heard(db, task_id) == [1]


async def _fail(*_: object) -> None:
    raise ConnectionError("the scheduler died")


async def test_a_wildcard_is_one_word(db: Database) -> None:
    task_id = await listener(db, "order.*.paid")

    for topic in ("order.paid", "order.eu.paid", "order.eu.west.paid", "order.eu.lost"):
        await publish(db, topic, topic)
    await fire(db)

    assert await heard(db, task_id) == ["order.eu.paid"]


async def test_a_filter_that_fails_is_false_and_stops_no_other_task(db: Database) -> None:
    dear = await listener(db, "order.paid payload.total > `10`")
    failing = await listener(db, "order.paid length(payload.total) > `1`")
    every = await listener(db, "order.paid")

    for total in (5, 20):
        await publish(db, "order.paid", {"total": total})
    await fire(db)

    assert await heard(db, dear) == [{"total": 20}]
    assert await heard(db, failing) == []
    assert await heard(db, every) == [{"total": 5}, {"total": 20}]


async def test_a_fault_in_the_engine_stops_no_other_task(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = await listener(db, "order.paid payload")
    every = await listener(db, "order.paid")
    real = triggers.is_meant

    def breaking(event: Any, topic: str, condition: str | None) -> bool:
        if condition:
            raise RecursionError
        return real(event, topic, condition)

    monkeypatch.setattr(triggers, "is_meant", breaking)
    await publish(db, "order.paid", 1)
    await fire(db)

    assert await heard(db, faulty) == []
    assert await heard(db, every) == [1]


async def test_a_task_hears_nothing_from_before_its_creation(db: Database) -> None:
    await publish(db, "order.paid", "before")
    task_id = await listener(db, "order.paid")
    await publish(db, "order.paid", "after")

    await fire(db)

    assert await heard(db, task_id) == ["after"]


async def test_a_paused_task_hears_nothing_and_misses_nothing_after_its_resume(
    db: Database,
) -> None:
    task_id = await listener(db, "order.paid")
    async with db.transaction() as tx:
        await schedules.pause(tx, [task_id])
        await tx.execute("UPDATE task SET status = 'paused' WHERE id = %s", (task_id,))
    await publish(db, "order.paid", "paused")
    await fire(db)
    await publish(db, "order.paid", "paused, and not read yet")
    async with db.transaction() as tx:
        await schedules.resume(tx, {task_id: None})
        await tx.execute("UPDATE task SET status = 'active' WHERE id = %s", (task_id,))

    await publish(db, "order.paid", "resumed")
    await fire(db)
    await publish(db, "order.paid", "later")
    await fire(db)

    assert await heard(db, task_id) == ["resumed", "later"]


async def test_a_task_ends_with_its_last_run(db: Database) -> None:
    task_id = await listener(db, "order.paid", max_runs=3)

    for batch in (2, 2, 2):
        async with db.transaction() as tx:
            await journal.emit(tx, [Event("order.paid", number) for number in range(batch)])
        await fire(db)

    assert await heard(db, task_id) == [0, 1, 0]
    assert await rows(db, "SELECT status FROM task WHERE id = %s", task_id) == [("completed",)]
    assert await rows(db, "SELECT task_id FROM fact WHERE topic = 'task.completed'") == [(task_id,)]


@pytest.mark.parametrize(
    ("overlap", "started"),
    [("allow", [1, 2, 3]), ("skip", [1]), ("queue", [1, 2, 3]), ("cancel_running", [3])],
)
async def test_runs_that_overlap_are_treated_as_the_task_says(
    db: Database, overlap: str, started: list[int]
) -> None:
    task_id = await listener(db, "order.paid", overlap=overlap)
    await publish(db, "order.paid", 1)
    await fire(db)

    for number in (2, 3):
        await publish(db, "order.paid", number)
    await fire(db)

    assert await heard(db, task_id) == started
    keys = await rows(db, "SELECT DISTINCT concurrency_key FROM due_work")
    assert keys == [(f"task:{task_id}" if overlap == "queue" else None,)]
    verdicts = await rows(db, "SELECT verdict FROM occurrence WHERE task_id = %s", task_id)
    skipped = {"skip": [("skipped_overlap",)] * 2, "cancel_running": [("canceled",)]}
    assert verdicts == skipped.get(overlap, [])


async def test_what_the_core_says_about_a_task_is_heard_by_its_owner_alone(db: Database) -> None:
    mine = await make_task(db, schedule_expr="nothing")
    [(owner,)] = await rows(db, "SELECT created_by FROM task WHERE id = %s", mine)
    own = await listener(db, "task.updated", created_by=owner)
    stranger = await listener(db, "task.updated")
    admin = await listener(db, "task.updated")
    async with db.transaction() as tx:
        await tx.execute(
            "UPDATE agent SET scopes = '{admin}'"
            " WHERE id = (SELECT created_by FROM task WHERE id = %s)",
            (admin,),
        )

    await publish(db, "task.updated", "mine", task_id=mine)
    await fire(db)

    assert await heard(db, own) == ["mine"]
    assert await heard(db, stranger) == []
    assert await heard(db, admin) == ["mine"]


async def test_a_task_does_not_hear_what_the_core_says_about_itself(db: Database) -> None:
    task_id = await listener(db, "run.*")

    await publish(db, "run.succeeded", task_id=task_id)
    await fire(db)

    assert await heard(db, task_id) == []


async def test_two_tasks_that_start_each_other_stop_and_say_why(db: Database) -> None:
    ping, pong = await listener(db, "game.ping"), await listener(db, "game.pong")
    observer = await listener(db, "task.skipped")
    await publish(db, "game.ping")

    played = 0
    await fire(db)
    while leases := await lease(db):
        for held in leases:
            answer = "game.pong" if held.task_id == ping else "game.ping"
            await publish(db, answer, run_id=held.id, task_id=held.task_id)
            await settle(db, ended(held))
        played += len(leases)
        await fire(db)

    assert played == MAX_DEPTH + 1
    [(skipped, verdict, reason)] = await rows(
        db, "SELECT task_id, verdict, reason FROM occurrence WHERE task_id IN (%s, %s)", ping, pong
    )
    assert (skipped, verdict) == (pong, "canceled")
    assert "16 runs that started each other" in reason
    [(said,)] = await rows(db, "SELECT data ->> 'reason' FROM fact WHERE topic = 'task.skipped'")
    assert said == reason
    assert await heard(db, observer) == []
