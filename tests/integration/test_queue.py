"""The queue's verbs, one at a time, on a real PostgreSQL."""

from __future__ import annotations

from uuid import UUID

import pytest
from psycopg import AsyncConnection

from ordinaut.errors import Conflict, NotFound
from ordinaut.model import Lease
from ordinaut.store import queue
from ordinaut.store.database import Database
from queueing import (
    LEASE,
    NOW,
    OTHER,
    WORKER,
    checkpoint,
    ended,
    enqueue,
    ids,
    later,
    lease,
    make_task,
    parked,
    rows,
    settle,
    status_of,
    step,
    topics,
    work,
)

pytestmark = pytest.mark.pooled


@pytest.fixture
async def task_id(db: Database) -> UUID:
    return await make_task(db)


async def leased(db: Database, task_id: UUID) -> Lease:
    """Enqueue one run and lease it."""
    await enqueue(db, work(task_id))
    [held] = await lease(db)
    return held


async def test_due_work_is_ready_and_future_work_is_scheduled(db: Database, task_id: UUID) -> None:
    now, soon = work(task_id), work(task_id, run_at=later(60))
    assert await enqueue(db, now, soon) == [now.id, soon.id]
    assert await status_of(db, now.id) == "ready"
    assert await status_of(db, soon.id) == "scheduled"
    assert await topics(db, soon.id) == ["run.queued"]


async def test_a_producer_may_wake_the_workers_with_its_commit(
    db: Database, task_id: UUID, database_url: str
) -> None:
    async with await AsyncConnection.connect(database_url, autocommit=True) as listening:
        await listening.execute("LISTEN ordinaut_work")
        async with db.transaction() as tx:
            await queue.enqueue(tx, [work(task_id), work(task_id)], wake=True)
            assert [n async for n in listening.notifies(timeout=0.1)] == []
        async with db.transaction() as tx:
            await queue.enqueue(tx, [work(task_id)])
        heard = [n.channel async for n in listening.notifies(timeout=5, stop_after=1)]
        heard += [n.channel async for n in listening.notifies(timeout=0.1)]
    assert heard == [queue.WORK_CHANNEL]


async def test_an_occurrence_is_queued_once(db: Database, task_id: UUID) -> None:
    first, second = work(task_id, scheduled_for=NOW), work(task_id, scheduled_for=NOW)
    assert await enqueue(db, first) == [first.id]
    assert await enqueue(db, second) == []
    assert await topics(db, second.id) == []


async def test_work_becomes_ready_when_its_time_has_come(db: Database, task_id: UUID) -> None:
    item = work(task_id, run_at=later(60))
    await enqueue(db, item)
    async with db.connection() as tx:
        assert await queue.next_wake(tx) == later(60)
        assert await queue.promote(tx, now=later(59), limit=10) == 0
        assert await queue.promote(tx, now=later(60), limit=10) == 1
        assert await queue.next_wake(tx) is None
    assert ids(await lease(db, now=later(60))) == [item.id]


async def test_a_lease_carries_what_the_run_needs(db: Database, task_id: UUID) -> None:
    item = work(task_id, scheduled_for=later(-5), payload={"params": {"who": "ada"}})
    await enqueue(db, item)
    [held] = await lease(db)
    assert (held.id, held.task_id, held.task_version) == (item.id, task_id, 1)
    assert (held.attempt, held.token, held.resumed) == (1, 1, False)
    assert (held.scheduled_for, held.trigger) == (later(-5), "run_now")
    assert held.payload == {"params": {"who": "ada"}}


async def test_a_run_has_one_owner(db: Database, task_id: UUID) -> None:
    await leased(db, task_id)
    assert await lease(db, worker=OTHER) == []


async def test_the_most_urgent_run_is_leased_first(db: Database, task_id: UUID) -> None:
    items = [work(task_id, priority=p) for p in (1, 9, 5)]
    await enqueue(db, *items)
    assert ids(await lease(db)) == [items[1].id, items[2].id, items[0].id]


async def test_a_step_of_priority_is_worth_a_minute_of_waiting(db: Database, task_id: UUID) -> None:
    old = work(task_id, priority=1, run_at=later(-9 * 60))
    urgent = work(task_id, priority=9)
    younger = work(task_id, priority=1, run_at=later(-7 * 60))
    await enqueue(db, urgent, younger, old)
    assert ids(await lease(db)) == [old.id, urgent.id, younger.id]


async def test_a_settled_run_is_history_with_steps_and_events(db: Database, task_id: UUID) -> None:
    held = await leased(db, task_id)
    done = ended(held, output={"n": 1}, steps=[step("a"), step("b", index=2)])
    assert await settle(db, done) == set()
    assert await rows(db, "SELECT count(*) FROM due_work") == [(0,)]
    assert await rows(db, "SELECT id, status, output, attempt, worker_id FROM task_run") == [
        (held.id, "succeeded", {"n": 1}, 1, WORKER)
    ]
    assert await rows(db, "SELECT step_id, item, output FROM step_run ORDER BY step_id") == [
        ("a", -1, {"logged": True}),
        ("b", 2, {"logged": True}),
    ]
    assert await topics(db, held.id) == [
        "run.queued", "run.started", "step.succeeded", "step.succeeded", "run.succeeded",
    ]  # fmt: skip


async def test_a_settlement_with_an_old_token_changes_nothing(db: Database, task_id: UUID) -> None:
    late = await leased(db, task_id)
    async with db.connection() as tx:
        assert await queue.expire(tx, now=later(31), limit=10) == queue.Expired(1, 0)
    [held] = await lease(db, worker=WORKER, now=later(31))
    assert (held.id, held.token, held.attempt, held.resumed) == (late.id, 2, 2, True)
    assert await settle(db, ended(late, steps=[step()])) == {late.id}
    assert await rows(db, "SELECT count(*) FROM step_run") == [(0,)]
    assert await settle(db, ended(held)) == set()


async def test_a_settlement_by_another_worker_changes_nothing(db: Database, task_id: UUID) -> None:
    held = await leased(db, task_id)
    assert await settle(db, ended(held), worker=OTHER) == {held.id}
    assert await status_of(db, held.id) == "leased"


async def test_a_settlement_is_recognised_when_its_answer_was_lost(
    db: Database, task_id: UUID
) -> None:
    held = await leased(db, task_id)
    await settle(db, ended(held))
    assert await settle(db, ended(held)) == {held.id}
    async with db.connection() as tx:
        assert await queue.settled(tx, [held], worker_id=WORKER) == {held.id}
        assert await queue.settled(tx, [held], worker_id=OTHER) == set()


async def test_renewal_extends_what_is_ours_and_names_what_shall_stop(
    db: Database, task_id: UUID
) -> None:
    await enqueue(db, work(task_id), work(task_id), work(task_id))
    keep, stop, lost = await lease(db)
    async with db.connection() as tx:
        canceled = await queue.cancel(tx, run_ids=[stop.id])
        assert canceled == queue.Canceled(ended=(), asked=(stop.id,))
        await settle(db, ended(lost))
        renewed = await queue.renew(
            tx, [keep, stop, lost], worker_id=WORKER, lease_for=LEASE, now=later(20)
        )
        assert renewed == {keep.id: False, stop.id: True}
        assert await queue.expire(tx, now=later(49), limit=10) == queue.Expired(0, 0)
        assert await queue.expire(tx, now=later(51), limit=10) == queue.Expired(1, 1)
    assert await status_of(db, stop.id) == "canceled"


async def test_released_work_is_ready_at_once_and_spends_no_attempt(
    db: Database, task_id: UUID
) -> None:
    await enqueue(db, work(task_id), work(task_id))
    unstarted, started = await lease(db)
    async with db.connection() as tx:
        released = await queue.release(
            tx, worker_id=WORKER, unstarted=[unstarted], started=[started]
        )
    assert released == {unstarted.id, started.id}
    again = await lease(db, worker=OTHER)
    assert [(held.attempt, held.token) for held in again] == [(1, 2), (1, 2)]
    assert {held.id: held.resumed for held in again} == {unstarted.id: False, started.id: True}
    assert await topics(db, unstarted.id) == ["run.queued"]
    assert await topics(db, started.id) == ["run.queued", "run.queued"]


async def test_a_canceled_run_that_is_released_ends(db: Database, task_id: UUID) -> None:
    held = await leased(db, task_id)
    async with db.connection() as tx:
        await queue.cancel(tx, run_ids=[held.id])
        await queue.release(tx, worker_id=WORKER, started=[held])
    assert await status_of(db, held.id) == "canceled"


async def test_a_retry_waits_in_the_table_for_its_time(db: Database, task_id: UUID) -> None:
    held = await leased(db, task_id)
    retry = parked(held, error={"code": "tool_error"}, steps=[step()])
    async with db.connection() as tx:
        assert await queue.park(tx, [retry], worker_id=WORKER) == set()
        assert await queue.park(tx, [retry], worker_id=WORKER) == {held.id}
        assert await queue.next_wake(tx) == later(8)
        await queue.promote(tx, now=later(8), limit=10)
    [again] = await lease(db, now=later(8))
    assert (again.id, again.attempt, again.token, again.resumed) == (held.id, 2, 2, True)
    async with db.connection() as tx:
        assert await queue.checkpoints(tx, [held.id]) == {held.id: [step()]}
    assert await topics(db, held.id) == [
        "run.queued", "run.started", "step.succeeded", "run.retrying",
    ]  # fmt: skip


async def test_a_suspended_run_spends_no_attempt_and_comes_back(
    db: Database, task_id: UUID
) -> None:
    held = await leased(db, task_id)
    waiting = parked(held, wait={"until": "x"})
    async with db.connection() as tx:
        await queue.park(tx, [waiting], worker_id=WORKER)
        assert await status_of(db, held.id) == "waiting"
        await queue.promote(tx, now=later(8), limit=10)
    [again] = await lease(db, now=later(8))
    assert (again.attempt, again.resumed) == (1, True)
    assert await topics(db, held.id) == [
        "run.queued", "run.started", "run.waiting", "run.queued",
    ]  # fmt: skip


async def test_a_checkpoint_is_kept_only_while_the_lease_is_ours(
    db: Database, task_id: UUID
) -> None:
    await enqueue(db, work(task_id), work(task_id))
    ours, lost = await lease(db)
    batch = [checkpoint(held, step("a")) for held in (ours, lost)]
    async with db.connection() as tx:
        await queue.release(tx, worker_id=WORKER, started=[lost])
        assert await queue.checkpoint(tx, batch, worker_id=WORKER) == {lost.id}
        found = await queue.checkpoints(tx, [ours.id, lost.id])
    assert found == {ours.id: [step("a")], lost.id: []}


async def test_a_running_step_is_replaced_by_its_end(db: Database, task_id: UUID) -> None:
    held = await leased(db, task_id)
    running = step("a", status="running", finished_at=None, output=None)
    async with db.connection() as tx:
        await queue.checkpoint(tx, [checkpoint(held, running)], worker_id=WORKER)
        assert await queue.checkpoints(tx, [held.id]) == {held.id: [running]}
        await settle(db, ended(held, steps=[step("a")], announce=False))
        assert await queue.checkpoints(tx, [held.id]) == {held.id: [step("a")]}
    assert await topics(db, held.id) == [
        "run.queued", "run.started", "step.succeeded", "run.succeeded",
    ]  # fmt: skip


async def test_an_expired_lease_goes_to_another_worker(db: Database, task_id: UUID) -> None:
    held = await leased(db, task_id)
    async with db.connection() as tx:
        assert await queue.expire(tx, now=later(29), limit=10) == queue.Expired(0, 0)
        assert await queue.expire(tx, now=later(31), limit=10) == queue.Expired(1, 0)
    [again] = await lease(db, worker=OTHER, now=later(31))
    assert (again.id, again.token, again.attempt) == (held.id, 2, 2)
    assert await topics(db, held.id) == ["run.queued", "run.retrying"]


async def test_a_run_that_keeps_killing_its_workers_is_buried(db: Database, task_id: UUID) -> None:
    await enqueue(db, work(task_id))
    async with db.connection() as tx:
        for crash in range(1, queue.MAX_CRASHES + 1):
            [held] = await lease(db, now=later(crash * 100))
            await queue.checkpoint(tx, [checkpoint(held)], worker_id=WORKER)
            await queue.expire(tx, now=later(crash * 100 + 31), limit=10)
    assert await lease(db, now=later(1000)) == []
    [(status, error)] = await rows(db, "SELECT status, error FROM task_run")
    assert (status, error["code"]) == ("dead", "poison")
    assert "5 times" in error["message"]
    assert (await topics(db, held.id))[-1] == "run.dead"


async def test_only_a_suspect_that_had_started_is_blamed_for_the_next_crash(
    db: Database, task_id: UUID
) -> None:
    await enqueue(db, work(task_id), work(task_id))
    await lease(db)
    async with db.connection() as tx:
        await queue.expire(tx, now=later(31), limit=10)
        killer, bystander = await lease(db, now=later(31))
        assert (killer.crashes, bystander.crashes) == (1, 1)
        assert await queue.checkpoint(tx, [checkpoint(killer)], worker_id=WORKER) == set()
        await queue.expire(tx, now=later(62), limit=10)
        found = {held.id: held.crashes for held in await lease(db, now=later(62))}
    assert found == {killer.id: 2, bystander.id: 1}


async def test_a_queued_run_is_canceled_at_once(db: Database, task_id: UUID) -> None:
    item = work(task_id)
    await enqueue(db, item)
    async with db.connection() as tx:
        assert await queue.cancel(tx, run_ids=[item.id]) == queue.Canceled((item.id,), ())
        assert await queue.cancel(tx, run_ids=[item.id]) == queue.Canceled((), ())
    assert await status_of(db, item.id) == "canceled"
    assert await topics(db, item.id) == ["run.queued", "run.canceled"]


async def test_all_runs_of_a_task_are_canceled_together(db: Database, task_id: UUID) -> None:
    held = await leased(db, task_id)
    mine, scheduled = work(task_id), work(task_id, run_at=later(60))
    other = work(await make_task(db))
    await enqueue(db, mine, scheduled, other)
    async with db.connection() as tx:
        canceled = await queue.cancel(tx, task_ids=[task_id], reason="the task was canceled")
    assert set(canceled.ended) == {mine.id, scheduled.id}
    assert canceled.asked == (held.id,)
    assert await status_of(db, other.id) == "ready"


async def test_a_failed_run_is_driven_again_from_its_checkpoints(
    db: Database, task_id: UUID
) -> None:
    held = await leased(db, task_id)
    await settle(db, ended(held, status="failed", error={"code": "x"}, steps=[step("a")]))
    async with db.connection() as tx:
        await queue.redrive(tx, held.id, now=later(5))
        [again] = await lease(db, now=later(5))
        assert (again.id, again.attempt, again.resumed) == (held.id, 1, True)
        assert again.token > held.token
        assert await queue.checkpoints(tx, [held.id]) == {held.id: [step("a")]}
    assert await settle(db, ended(held)) == {held.id}
    assert await settle(db, ended(again)) == set()


async def test_only_a_run_that_ended_badly_is_driven_again(db: Database, task_id: UUID) -> None:
    held = await leased(db, task_id)
    async with db.connection() as tx:
        with pytest.raises(NotFound):
            await queue.redrive(tx, held.id)
        await settle(db, ended(held))
        with pytest.raises(NotFound):
            await queue.redrive(tx, held.id)


async def test_a_run_whose_occurrence_is_queued_again_is_not_driven_again(
    db: Database, task_id: UUID
) -> None:
    await enqueue(db, work(task_id, scheduled_for=NOW))
    [held] = await lease(db)
    await settle(db, ended(held, status="failed"))
    await enqueue(db, work(task_id, scheduled_for=NOW))
    with pytest.raises(Conflict):
        async with db.transaction() as tx:
            await queue.redrive(tx, held.id)
    assert await status_of(db, held.id) == "failed"


async def test_a_concurrency_key_bounds_what_is_leased(db: Database, task_id: UUID) -> None:
    keyed = [work(task_id, concurrency_key="gpu", max_concurrency=2) for _ in range(4)]
    free = work(task_id, priority=1)
    await enqueue(db, *keyed, free)
    first = await lease(db)
    assert ids(first) == [keyed[0].id, keyed[1].id, free.id]
    assert await lease(db) == []
    await settle(db, ended(first[0]))
    assert ids(await lease(db)) == [keyed[2].id]


async def test_keyed_and_free_work_share_one_order(db: Database, task_id: UUID) -> None:
    late = work(task_id, priority=1)
    keyed = [work(task_id, priority=p, concurrency_key=f"k{p}") for p in (5, 9, 2)]
    await enqueue(db, late, *keyed)
    assert ids(await lease(db, limit=3)) == [keyed[1].id, keyed[0].id, keyed[2].id]
