"""What a run says at its end lies in one row of the outbox, and is read event by event."""

from __future__ import annotations

from uuid import UUID

from ordinaut import bus as transport
from ordinaut.bus import Bus
from ordinaut.clock import TravelClock
from ordinaut.model import StepRecord
from ordinaut.scheduler.spine import Relay
from ordinaut.store import journal, triggers
from ordinaut.store.database import Database
from queueing import ended, enqueue, lease, make_task, rows, settle, step, work
from relaying import relay_all
from ticking import START

STEPS = (step("one"), step("two", status="skipped"))
TOPICS = ["run.started", "step.succeeded", "step.skipped", "run.succeeded"]


async def end_run(db: Database, steps: tuple[StepRecord, ...] = STEPS) -> UUID:
    item = work(await make_task(db))
    await enqueue(db, item)
    [held] = await lease(db)
    assert await settle(db, ended(held, steps=steps)) == set()
    return item.id


async def said_of(db: Database, run_id: UUID) -> list[tuple[int, str]]:
    """Return place and topic of what was said of a run after it was queued."""
    query = "SELECT seq, topic FROM fact WHERE run_id = %s AND topic <> 'run.queued' ORDER BY seq"
    return await rows(db, query, run_id)


async def test_the_events_of_a_run_that_ends_share_a_row(db: Database):
    run_id = await end_run(db)

    [(place,)] = await rows(
        db, "SELECT seq FROM event WHERE run_id = %s AND topic <> 'run.queued'", run_id
    )
    assert await said_of(db, run_id) == [(place - 3 + n, topic) for n, topic in enumerate(TOPICS)]


async def test_no_two_events_have_one_id(db: Database):
    for _ in range(3):
        await end_run(db)

    assert await rows(db, "SELECT count(*) - count(DISTINCT seq) FROM fact") == [(0,)]


async def test_a_batch_of_the_relay_may_end_within_a_row(db: Database, redis_url: str):
    run_id = await end_run(db)
    async with Bus(redis_url) as bus:
        await relay_all(Relay(db, bus, TravelClock(START), batch=2))
        found = await bus.tail(transport.EVENTS, after="0", block=0.001, limit=100)

    arrived = [(int(m.fields["id"]), m.fields["type"]) for m in found]
    assert arrived[1:] == await said_of(db, run_id)


async def test_a_page_may_begin_within_a_row(db: Database):
    run_id = await end_run(db)
    said = await said_of(db, run_id)

    async with db.connection() as tx:
        for n, (seq, _) in enumerate(said):
            found = await journal.read_events(tx, limit=2, before=seq)
            expected = ["run.queued", *TOPICS[:n]][-2:]
            assert [r.event.topic for r in reversed(found)] == expected


async def test_tasks_and_readers_find_what_was_said_first_by_its_topic(db: Database):
    async with db.connection() as tx:
        before = await triggers.take_place(tx)
    run_id = await end_run(db)

    async with db.connection() as tx:
        now = await triggers.take_place(tx)
        assert before is not None
        assert now is not None
        heard = await triggers.fresh(
            tx, ["step.skipped"], since=before.until, until=now.until, after=0, limit=10
        )
        listed = await journal.read_events(tx, limit=10, topic="step.*")
    assert [(c.event.topic, c.event.data["step_id"]) for c in heard] == [("step.skipped", "two")]
    assert [r.event.run_id for r in listed] == [run_id, run_id]


async def test_what_has_no_room_in_one_row_gets_rows_of_its_own(db: Database):
    run_id = await end_run(db, tuple(step(f"s{n}") for n in range(1_000)))

    topics = [topic for _, topic in await said_of(db, run_id)]
    assert topics == ["run.started", *["step.succeeded"] * 1_000, "run.succeeded"]
    assert await rows(db, "SELECT count(*) - count(DISTINCT seq) FROM fact") == [(0,)]
