"""Runs that wait for events: whenever the event comes, it wakes them, and only once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from ordinaut.engine.registry import ToolRegistry
from ordinaut.model import Event, Json, uuid7
from ordinaut.scheduler.waits import Waits
from ordinaut.store import journal, queue, waits
from ordinaut.store.database import Database, Tx
from ordinaut.store.waits import Answer
from queueing import LEASE, enqueue, make_task, rows, status_of, topics, work
from working import PATIENCE, until, until_status, worker

OTHER_WORKER = UUID(int=2)


class Bench(ToolRegistry):
    """A tool that tells when it was called, and returns when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.go = asyncio.Event(), asyncio.Event()
        self.register("test.hold", self.hold)

    async def hold(self) -> None:
        self.called.set()
        await self.go.wait()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def working(database_url: str, bench: Bench) -> AsyncIterator[None]:
    async with worker(database_url, bench):
        yield


def waiting(event: str, **options: Json) -> Json:
    return {"id": "wait", "wait_for": {"event": event, **options}}


async def start(db: Database, *steps: Json, task_id: UUID | None = None, **payload: Json) -> UUID:
    task_id = task_id or await make_task(db, payload={"pipeline": list(steps), **payload})
    item = work(task_id)
    await enqueue(db, item)
    async with db.connection() as tx:
        await queue.hint(tx)
    return item.id


async def publish(db: Database, topic: str, data: Json = None, **ids: UUID) -> None:
    async with db.transaction() as tx:
        await journal.emit(tx, [Event(topic, data, **ids)])


async def wake(db: Database) -> None:
    """Do what a scheduler does, and tell the workers."""
    while await Waits(db).run_once():
        pass


async def output_of(db: Database, run_id: UUID) -> Any:
    await until_status(db, run_id, "succeeded")
    [(output,)] = await rows(db, "SELECT output FROM task_run WHERE id = %s", run_id)
    return output


@asynccontextmanager
async def suspended_but_not_committed(
    db: Database, run_id: UUID, bench: Bench
) -> AsyncIterator[Tx]:
    """Let a run go on from its ``hold`` to its suspension, which stands before a lock."""
    async with asyncio.timeout(PATIENCE):
        await bench.called.wait()
    async with db.transaction() as tx:
        await waits.hold(tx, [run_id])
        bench.go.set()

        async def blocked() -> bool:
            found = await rows(
                db,
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database() AND application_name = 'ordinaut settler'",
            )
            return bool(found)

        await until(blocked, what="the worker writes down that the run is suspended")
        yield tx


@pytest.mark.usefixtures("working")
async def test_an_event_wakes_the_runs_that_wait_for_its_topic(db: Database) -> None:
    run_id = await start(db, waiting("order.paid"), output="${steps.wait}")
    other = await start(db, waiting("order.lost"))
    for one in (run_id, other):
        await until_status(db, one, "waiting")
    await wake(db)

    await publish(db, "order.paid", {"total": 9})
    await wake(db)

    output = await output_of(db, run_id)
    [(seq,)] = await rows(db, "SELECT seq FROM fact WHERE topic = 'order.paid'")
    assert (output["id"], output["topic"], output["payload"]) == (
        str(seq), "order.paid", {"total": 9},
    )  # fmt: skip
    assert output.keys() == {"id", "at", "topic", "subject", "task_id", "run_id", "payload"}
    assert await status_of(db, other) == "waiting"
    told = await topics(db, run_id)
    assert told[told.index("run.waiting") :] == [
        "run.waiting", "step.succeeded", "run.queued", "run.started", "run.succeeded",
    ]  # fmt: skip


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize(
    ("event", "options", "wakes"),
    [
        ("order.7.paid", {}, True),
        ("order.*.paid", {}, True),
        ("*.*.*", {}, True),
        ("*.*", {}, False),
        ("order.*", {}, False),
        ("order.8.*", {}, False),
        ("order.7.paid", {"filter": "payload.total > `5`"}, True),
        ("order.7.paid", {"filter": "payload.total > `10`"}, False),
        ("order.7.paid", {"filter": "length(payload.missing) > `1`"}, False),
        ("order.7.paid", {"filter": "topic == 'order.7.paid' && subject == ''"}, True),
    ],
)
async def test_topics_have_wildcards_and_events_are_filtered(
    db: Database, event: str, options: Json, wakes: bool
) -> None:
    run_id = await start(db, waiting(event, **options))
    await until_status(db, run_id, "waiting")
    await publish(db, "order.7.paid", {"total": 9})  # found when the run is looked at
    await wake(db)
    if not wakes:
        await publish(db, "order.7.paid", {"total": 9})  # found when the outbox is read
        await wake(db)
        assert await rows(db, "SELECT state FROM due_work") == [("waiting",)]
        return
    await until_status(db, run_id, "succeeded")


@pytest.mark.usefixtures("working")
async def test_each_wait_takes_an_event_of_its_own_and_none_from_before(db: Database) -> None:
    await publish(db, "tick", 0)
    both = [{"id": name, "wait_for": {"event": "tick"}} for name in ("a", "b")]
    run_id = await start(db, *both, output=["${steps.a.payload}", "${steps.b.payload}"])
    await until_status(db, run_id, "waiting")
    await wake(db)
    assert await status_of(db, run_id) == "waiting"

    await publish(db, "tick", 1)
    await wake(db)

    async def again() -> bool:
        return (await topics(db, run_id)).count("run.waiting") == 2

    await until(again, what="the run waits for the second time")
    await wake(db)
    assert await status_of(db, run_id) == "waiting"
    await publish(db, "tick", 2)
    await wake(db)
    assert await output_of(db, run_id) == [1, 2]


@pytest.mark.usefixtures("working")
async def test_an_event_between_the_suspension_and_its_commit_is_not_lost(
    db: Database, bench: Bench
) -> None:
    listener = await start(db, waiting("something.else"))
    await until_status(db, listener, "waiting")
    await wake(db)
    group = [{"id": "hold", "uses": "test.hold"}, waiting("now.or.never")]
    run_id = await start(db, {"id": "group", "parallel": group})

    async with suspended_but_not_committed(db, run_id, bench):
        await publish(db, "now.or.never")
        await wake(db)  # the outbox is read, and nobody listens
        await publish(db, "later")
        await wake(db)

    await until_status(db, run_id, "waiting")
    await wake(db)
    await until_status(db, run_id, "succeeded")
    assert await status_of(db, listener) == "waiting"


@pytest.mark.usefixtures("working")
async def test_an_event_that_is_committed_late_is_not_lost(db: Database) -> None:
    run_id = await start(db, waiting("slow.event"))
    await until_status(db, run_id, "waiting")
    async with db.transaction() as tx:
        await journal.emit(tx, [Event("slow.event", "late")])
        await wake(db)  # the run is looked at, and listens from now on
        await publish(db, "quick.event")
        await wake(db)  # the outbox is read beyond the place of the late one
        assert await status_of(db, run_id) == "waiting"
    await wake(db)
    await until_status(db, run_id, "succeeded")


@pytest.mark.usefixtures("working")
async def test_an_answer_that_comes_while_the_run_is_under_way_is_not_lost(
    db: Database, bench: Bench
) -> None:
    asked: list[Json] = [{"id": name, "wait_for": "approval"} for name in ("a", "b")]
    asked[0]["uses"] = "test.hold"
    run_id = await start(db, {"id": "both", "parallel": asked}, output="${steps.both.b.approved}")
    await until_status(db, run_id, "waiting")
    await wake(db)
    async with db.transaction() as tx:
        await waits.hold(tx, [run_id])
        await waits.answer(tx, [said(run_id, "a:wait")], reason="approved")
        await queue.hint(tx)

    async with suspended_but_not_committed(db, run_id, bench) as tx:
        await waits.answer(tx, [said(run_id, "b")], reason="approved")

    await until_status(db, run_id, "waiting")
    await wake(db)
    assert await output_of(db, run_id) is True


def said(run_id: UUID, step_id: str) -> Answer:
    return Answer(run_id=run_id, step_id=step_id, output={"approved": True})


async def test_an_event_that_comes_while_the_run_is_under_way_is_not_lost(
    db: Database, database_url: str, bench: Bench
) -> None:
    asked = [{"id": name, "wait_for": {"event": f"it.{name}"}} for name in ("a", "b")]
    run_id = await start(db, {"id": "both", "parallel": asked}, output="${steps.a.payload}")
    async with worker(database_url, bench):
        await until_status(db, run_id, "waiting")
    await wake(db)
    await publish(db, "it.a", 1)
    await wake(db)
    async with db.connection() as tx:
        [held] = (await queue.lease(tx, worker_id=OTHER_WORKER, limit=1, lease_for=LEASE)).leases
        await publish(db, "it.b", 2)
        await wake(db)
        await queue.release(tx, worker_id=OTHER_WORKER, started=[held])
    async with worker(database_url, bench):
        await until_status(db, run_id, "waiting")
        await wake(db)
        assert await output_of(db, run_id) == 1


@pytest.mark.usefixtures("working")
async def test_what_the_core_says_about_a_task_wakes_its_owner_only(db: Database) -> None:
    mine, other = await make_task(db, payload={"pipeline": [waiting("run.failed")]}), uuid7()
    [(owner,)] = await rows(db, "SELECT created_by FROM task WHERE id = %s", mine)
    await make_task(db, id=other)
    own = await make_task(db, created_by=owner)
    run_id = await start(db, task_id=mine)
    await until_status(db, run_id, "waiting")

    await publish(db, "run.failed", {}, task_id=other, run_id=uuid7())
    await wake(db)
    assert await status_of(db, run_id) == "waiting"

    await publish(db, "run.failed", {}, task_id=own, run_id=uuid7())
    await wake(db)
    await until_status(db, run_id, "succeeded")


@pytest.mark.usefixtures("working")
async def test_one_process_reads_at_a_time_and_the_next_goes_on(db: Database) -> None:
    run_id = await start(db, waiting("it"))
    await until_status(db, run_id, "waiting")
    await publish(db, "it")
    async with db.transaction() as tx:
        assert await waits.take_place(tx) is not None
        assert not await Waits(db).run_once()
        assert await status_of(db, run_id) == "waiting"
    await wake(db)
    await until_status(db, run_id, "succeeded")


@pytest.mark.usefixtures("working")
async def test_a_database_from_the_dump_of_another_cluster_is_looked_at_again(
    db: Database,
) -> None:
    run_id = await start(db, waiting("it"))
    await until_status(db, run_id, "waiting")
    await wake(db)
    async with db.transaction() as tx:
        await tx.execute(
            "UPDATE event_cursor SET snapshot = '900000000:900000000:' WHERE name = 'waits'"
        )
    await publish(db, "it")
    await wake(db)
    await until_status(db, run_id, "succeeded")


async def test_a_run_that_gave_up_waiting_hears_nothing(
    db: Database, database_url: str, bench: Bench
) -> None:
    run_id = await start(db, waiting("it", timeout="50ms"))
    async with worker(database_url, bench):
        await until_status(db, run_id, "waiting")
        await wake(db)

        async def due() -> bool:
            async with db.connection() as tx:
                return await queue.promote(tx, limit=10) == 1

        await until(due, what="the time is over")
        await publish(db, "it")
        await wake(db)
        await until_status(db, run_id, "failed")
