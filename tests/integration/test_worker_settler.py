"""The settler: what is refused, what is lost, and commits whose answer never came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import psycopg
import pytest

from ordinaut.clock import SystemClock
from ordinaut.errors import LeaseLost
from ordinaut.model import Lease
from ordinaut.store.database import Database, Tx
from ordinaut.workers.line import Line
from ordinaut.workers.settler import Batch, NotStorable, Settler
from queueing import (
    WORKER,
    ended,
    enqueue,
    lease,
    make_task,
    parked,
    rows,
    status_of,
    step,
    topics,
    work,
)

NUL = [("bad", -1, "succeeded", 1, "core.log", 0.0, 0.0, '"\\u0000"', None)]  # no jsonb


@pytest.fixture
async def leases(db: Database) -> list[Lease]:
    task_id = await make_task(db)
    await enqueue(db, *(work(task_id) for _ in range(10)))
    return await lease(db)


class Flushing:
    """A settler with one connection, flushed by hand."""

    def __init__(self, url: str, kind: type[Settler] = Settler) -> None:
        self.line = Line(url, name="ordinaut settler")
        self.settler = kind([self.line], worker_id=WORKER, clock=SystemClock())

    async def flush(self) -> None:
        await self.settler.run_once(self.line)


@pytest.fixture
async def flushing(database_url: str) -> AsyncIterator[Flushing]:
    made = Flushing(database_url)
    yield made
    await made.line.close()


async def test_a_result_that_can_not_be_stored_is_a_failure_of_its_run_alone(
    db: Database, flushing: Flushing, leases: list[Lease]
) -> None:
    for number, held in enumerate(leases):
        result = ended(held, steps=[step("a")])
        flushing.settler.settle(result._replace(steps=NUL) if number == 6 else result)
    await flushing.flush()
    found = [await status_of(db, held.id) for held in leases]
    assert found == ["succeeded"] * 6 + ["failed"] + ["succeeded"] * 3
    [(error,)] = await rows(db, "SELECT error FROM task_run WHERE status = 'failed'")
    assert error["code"] == "not_storable"
    assert "\\u0000" in error["message"] or "Unicode" in error["message"]
    assert await topics(db, leases[6].id) == ["run.queued", "run.started", "run.failed"]


async def test_every_kind_of_result_in_one_flush_survives_a_bad_one(
    db: Database, flushing: Flushing, leases: list[Lease]
) -> None:
    settler = flushing.settler
    good = settler.note(leases[0], (step("a"),), announce=True)
    bad = settler.note(leases[1], (step("a"),), announce=True)
    spoilt = settler._pending.notes[-1]  # what can not be made through the front door
    settler._pending.notes[-1] = type(spoilt)(
        spoilt.checkpoint._replace(steps=NUL), spoilt.records, spoilt.written
    )
    settler.settle(parked(leases[2]))
    settler.settle(parked(leases[3], wait={"kind": "until"})._replace(steps=NUL))
    settler.settle(ended(leases[4]))
    await flushing.flush()
    await good
    with pytest.raises(NotStorable):
        await bad
    assert [await status_of(db, held.id) for held in leases[:5]] == [
        "leased", "leased", "scheduled", "failed", "succeeded",
    ]  # fmt: skip


async def test_who_waits_for_a_checkpoint_learns_that_the_lease_is_lost(
    db: Database, flushing: Flushing, leases: list[Lease]
) -> None:
    lost, kept = leases[:2]
    await rows(db, "UPDATE due_work SET lease_token = 9 WHERE id = %s RETURNING 1", lost.id)
    notes = [flushing.settler.note(held, (step("a"),), announce=True) for held in (lost, kept)]
    await flushing.flush()
    with pytest.raises(LeaseLost):
        await notes[0]
    await notes[1]
    assert await rows(db, "SELECT run_id FROM step_run") == [(kept.id,)]


class LosesAnswers(Settler):
    """Loses the connection right after the first commit."""

    lost = False

    async def _store(self, tx: Tx, batch: Batch) -> set[UUID]:
        found = await super()._store(tx, batch)
        if not self.lost:
            self.lost = True
            await tx.close()
            raise psycopg.OperationalError("the connection was lost")
        return found


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    db: Database, database_url: str, leases: list[Lease]
) -> None:
    flushing = Flushing(database_url, LosesAnswers)
    settler = flushing.settler
    note = settler.note(leases[0], (step("a"),), announce=True)
    settler.settle(parked(leases[1], steps=[step("a")]))
    for held in leases[2:]:
        settler.settle(ended(held, steps=[step("a")]))
    await flushing.flush()
    await note
    await flushing.line.close()
    assert await topics(db, leases[0].id) == ["run.queued", "run.started", "step.succeeded"]
    assert await topics(db, leases[1].id) == [
        "run.queued", "run.started", "step.succeeded", "run.retrying",
    ]  # fmt: skip
    for held in leases[2:]:
        assert await topics(db, held.id) == [
            "run.queued", "run.started", "step.succeeded", "run.succeeded",
        ]  # fmt: skip


async def test_a_large_backlog_is_written_in_several_flushes(
    db: Database, flushing: Flushing, leases: list[Lease]
) -> None:
    big = "x" * 6_000_000
    for held in leases:
        flushing.settler.settle(ended(held, output=big))
    await flushing.flush()
    assert await rows(db, "SELECT count(*) FROM task_run") == [(3,)]
    for _ in range(3):
        await flushing.flush()
    assert await rows(db, "SELECT count(*), min(length(output #>> '{}')) FROM task_run") == [
        (10, len(big))
    ]


async def test_what_waits_to_be_written_is_still_held(
    flushing: Flushing, leases: list[Lease]
) -> None:
    settler = flushing.settler
    settler.settle(ended(leases[0]))
    settler.settle(parked(leases[1]))
    note = settler.note(leases[2], announce=True)
    assert {held.id for held in settler.leases()} == {held.id for held in leases[:3]}
    await flushing.flush()
    assert settler.leases() == []
    await asyncio.wait_for(settler.quiet(), 1)
    await note
