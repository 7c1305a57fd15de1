"""The hot statements keep to their indexes, whatever the planner knows about the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ordinaut.model import NOBODY, uuid7
from ordinaut.store import database, deliveries, queue, runlog, schedules, waits
from ordinaut.store.database import SMALL, Database, Tx
from ordinaut.store.deliveries import Attempted
from ordinaut.workers.line import BY_ID, BY_INDEX
from queueing import LEASE, NOW, WORKER, checkpoint, ended, lease, make_task, parked, rows, step

ROWS = 100_000
HELD = 200

FILL = """
INSERT INTO due_work (id, task_id, task_version, run_at, sort_key, priority, concurrency_key)
SELECT gen_random_uuid(), %s, 1, now() - make_interval(secs => i / 1000.0), i, 5,
       CASE WHEN i %% 10 = 0 THEN 'key ' || i %% 50 END
  FROM generate_series(1, %s) AS i
"""

KNOWLEDGE = ("fresh", "stale", "nothing", "emptied")


@pytest.fixture(params=KNOWLEDGE)
async def full(db: Database, request: pytest.FixtureRequest) -> Database:
    """A queue of a hundred thousand runs, of which the planner knows more or less."""
    task_id = await make_task(db)
    async with db.connection() as tx:
        if request.param == "stale":  # what it knows is from when the queue was empty
            await tx.execute("ANALYZE due_work")
        if request.param == "emptied":
            # The same, and the rows of better days have left their pages.
            await tx.execute(FILL, (task_id, ROWS))
            await tx.execute("DELETE FROM due_work WHERE sort_key < %s", (ROWS,))
            await tx.execute("VACUUM ANALYZE due_work")
            await tx.execute("DELETE FROM due_work")
            await tx.execute("VACUUM (ANALYZE, TRUNCATE OFF) due_work")
        await tx.execute(FILL, (task_id, ROWS))
        if request.param == "fresh":
            await tx.execute("VACUUM ANALYZE due_work")
    return db


LEASING = {
    "worker_id": WORKER,
    "limit": 100,
    "lease_for": LEASE,
    "turn": NOBODY,
    "key": "",
    "now": None,
}


class Explain:
    """Stands in for a connection and explains what it is asked to execute."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.plans: list[dict[str, Any]] = []

    async def execute(self, query: Any, parameters: Any, **_: Any) -> Explain:
        explained = await self._tx.execute(
            "EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON) " + query, parameters
        )
        [([found],)] = await explained.fetchall()
        self.plans.append(found["Plan"])
        return self

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return []


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a plan's nodes, itself first."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


def reads(plan: dict[str, Any], table: str = "due_work") -> set[tuple[str, str]]:
    """Return how a table is read: kinds of node with their indexes."""
    return {
        (node["Node Type"], node.get("Index Name", ""))
        for node in nodes(plan)
        if node.get("Relation Name", "").startswith(table) and node["Node Type"] != "ModifyTable"
    }


def found_by_id(plan: dict[str, Any]) -> bool:
    """Tell whether all that is read is looked up by its id, or by the place that this gave."""
    ways = {("Index Scan", "due_work_pkey"), ("Bitmap Heap Scan", ""), ("Tid Scan", "")}
    named = (node.get("Index Name", "") for node in nodes(plan))
    return reads(plan) <= ways and {n for n in named if "due_work" in n} == {"due_work_pkey"}


def rows_read(plan: dict[str, Any], table: str = "due_work") -> int:
    """Return the greatest number of rows that one node took from a table."""
    return max(
        node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
        for node in nodes(plan)
        if node.get("Relation Name", "").startswith(table) and node["Node Type"] != "ModifyTable"
    )


async def explained(url: str, options: str, call: Any) -> dict[str, Any]:
    """Return the plan of the one statement that ``call`` executes, generic as the worker's."""
    tx = await database.connect(url, options=options)
    try:
        explain = Explain(tx)
        await call(explain)
    finally:
        await tx.close()
    [plan] = explain.plans
    return plan


async def test_leasing_reads_the_ready_index_and_no_more_than_it_takes(
    full: Database, database_url: str
) -> None:
    plan = await explained(
        database_url,
        BY_INDEX,
        lambda tx: tx.execute(queue.SQL["lease"], LEASING),
    )
    assert ("Index Scan", "due_work_ready") in reads(plan)
    assert ("Seq Scan", "") not in reads(plan)
    assert rows_read(plan) <= 200


async def test_leased_rows_do_not_slow_the_next_lease(full: Database, database_url: str) -> None:
    for _ in range(5):
        await lease(full, limit=1000, now=NOW)
    plan = await explained(
        database_url,
        BY_INDEX,
        lambda tx: tx.execute(queue.SQL["lease"], LEASING),
    )
    assert rows_read(plan) <= 200


@pytest.mark.parametrize("options", [BY_ID, ""], ids=["direct", "through a pooler"])
async def test_settling_finds_each_row_by_its_id(
    full: Database, database_url: str, options: str
) -> None:
    leases = await lease(full, limit=HELD, now=NOW)
    verbs = {
        "settle": (queue.settle, [ended(one, steps=[step()]) for one in leases]),
        "park": (queue.park, [parked(one, steps=[step()]) for one in leases]),
        "checkpoint": (queue.checkpoint, [checkpoint(one, step()) for one in leases]),
        "tell": (runlog.tell, [runlog.Progress(one, {"fraction": 0.5}) for one in leases]),
    }
    for name, (verb, batch) in verbs.items():
        plan = await explained(
            database_url, options, lambda tx, v=verb, b=batch: v(tx, b, worker_id=WORKER)
        )
        if options:
            assert reads(plan) == {("Index Scan", "due_work_pkey")}, name
        assert found_by_id(plan), name
        assert rows_read(plan) <= HELD, name


@pytest.mark.parametrize(
    ("keeping", "giving"), [(BY_ID, BY_INDEX), ("", "")], ids=["direct", "through a pooler"]
)
async def test_renewing_and_giving_back_find_each_row_by_its_id(
    full: Database, database_url: str, keeping: str, giving: str
) -> None:
    leases = await lease(full, limit=HELD, now=NOW)
    renewed = await explained(
        database_url,
        keeping,
        lambda tx: queue.renew(tx, leases, worker_id=WORKER, lease_for=LEASE),
    )
    released = await explained(
        database_url, giving, lambda tx: queue.release(tx, worker_id=WORKER, unstarted=leases)
    )
    if keeping:
        assert reads(renewed) == {("Index Scan", "due_work_pkey"), ("Tid Scan", "")}
    assert found_by_id(renewed)
    assert rows_read(renewed) <= 3 * HELD  # to lock, to write, to tell
    assert found_by_id(released)
    assert rows_read(released) <= HELD


async def test_answering_finds_each_run_by_its_id(full: Database, database_url: str) -> None:
    asked = step(status="waiting", finished_at=None)
    leases = await lease(full, limit=HELD, now=NOW)
    batch = [parked(one, wait=[{"kind": "approval"}], steps=[asked]) for one in leases]
    async with full.transaction() as tx:
        assert await queue.park(tx, batch, worker_id=WORKER) == set()
    answers = [waits.Answer(run_id=one.id, step_id=asked.step_id) for one in leases]
    tx = await database.connect(database_url)
    try:
        explain = Explain(tx)
        await waits.answer(explain, answers, reason="approved", now=NOW)
    finally:
        await tx.close()
    written, woken = explain.plans
    assert found_by_id(written)
    assert max(rows_read(written), rows_read(woken)) <= HELD


async def test_canceling_finds_each_row_by_its_id(full: Database, database_url: str) -> None:
    leases = await lease(full, limit=HELD, now=NOW)
    parameters = {"run_ids": [one.id for one in leases], "task_ids": [], "reason": "", "now": None}
    plan = await explained(database_url, "", lambda tx: tx.execute(queue.SQL["cancel"], parameters))
    assert rows_read(plan) <= HELD


async def test_expired_leases_are_found_by_their_time(full: Database, database_url: str) -> None:
    await lease(full, limit=HELD, now=NOW)
    parameters = {"now": None, "limit": 1000, "max_crashes": queue.MAX_CRASHES}
    plan = await explained(database_url, "", lambda tx: tx.execute(queue.SQL["expire"], parameters))
    assert "due_work_expiry" in {node.get("Index Name") for node in nodes(plan)}
    assert ("Seq Scan", "") not in reads(plan)
    assert rows_read(plan) <= HELD


@pytest.mark.parametrize("statement", ["lease_urgent", "lease_keyed"])
async def test_a_concurrency_key_with_a_long_queue_is_passed_over_quickly(
    full: Database, database_url: str, statement: str
) -> None:
    plan = await explained(
        database_url, BY_INDEX, lambda tx: tx.execute(queue.SQL[statement], LEASING)
    )
    assert ("Seq Scan", "") not in reads(plan)
    assert rows_read(plan) <= 300


async def test_a_plan_made_for_the_empty_queue_serves_the_full_one(
    db: Database, database_url: str
) -> None:
    task_id = await make_task(db)
    async with db.connection() as tx:
        await tx.execute("VACUUM ANALYZE due_work")
    tx = await database.connect(database_url, options=BY_ID)
    try:
        for _ in range(10):  # it is prepared and its generic plan is kept
            await queue.renew(tx, [], worker_id=WORKER, lease_for=LEASE)
        await rows(db, FILL + " RETURNING NULL", task_id, ROWS)
        leases = await lease(db, limit=HELD, now=NOW)
        before = await sequential_scans(tx)
        renewed = await queue.renew(tx, leases, worker_id=WORKER, lease_for=LEASE)
        assert len(renewed) == HELD
        assert await sequential_scans(tx) == before
    finally:
        await tx.close()


async def test_a_scheduler_that_began_with_an_empty_queue_reads_no_more_than_it_wants(
    db: Database, database_url: str
) -> None:
    task_id = await make_task(db)
    async with db.connection() as tx:
        await tx.execute("VACUUM ANALYZE due_work")
    wanted: dict[str, Callable[[Tx, UUID], Awaitable[object]]] = {
        "promote": lambda tx, _: queue.promote(tx, limit=HELD),
        "live": lambda tx, _: schedules.live(tx, [task_id]),
        "cancel": lambda tx, run_id: queue.cancel(tx, run_ids=[run_id], reason="enough"),
    }
    tx = await database.connect(database_url, options=SMALL)
    try:
        for _ in range(10):  # they are prepared and their plans are kept
            for call in wanted.values():
                await call(tx, NOBODY)
        [(run_id,), *_] = await rows(db, FILL + " RETURNING id", task_id, ROWS)
        waiting = "UPDATE due_work SET state = 'scheduled' WHERE sort_key <= %s RETURNING NULL"
        await rows(db, waiting, HELD)
        for name, call in wanted.items():
            before = await sequential_scans(tx)
            await call(tx, run_id)
            assert await sequential_scans(tx) == before, name
    finally:
        await tx.close()


DELIVERIES = """
INSERT INTO webhook_delivery (id, webhook_id, topic, body, next_attempt_at, created_at)
SELECT gen_random_uuid(), %s, 'orders.created', '{}', now() - make_interval(secs => i), now()
  FROM generate_series(1, %s) AS i
"""


@pytest.fixture(params=["fresh", "emptied"])
async def deliveries_under_way(db: Database, request: pytest.FixtureRequest) -> list[Attempted]:
    """Some of a hundred thousand deliveries, of which the planner knows or does not."""
    webhook_id, agent_id = uuid7(), uuid7()
    async with db.connection() as tx:
        await tx.execute("INSERT INTO agent (id, name) VALUES (%s, 'hears')", (agent_id,))
        await tx.execute(
            "INSERT INTO webhook (id, url, topics, created_by)"
            " VALUES (%s, 'https://example.org/', '{orders.created}', %s)",
            (webhook_id, agent_id),
        )
        if request.param == "emptied":
            await tx.execute(DELIVERIES, (webhook_id, ROWS))
            await tx.execute("DELETE FROM webhook_delivery")
            await tx.execute("VACUUM (ANALYZE, TRUNCATE OFF) webhook_delivery")
        await tx.execute(DELIVERIES, (webhook_id, ROWS))
        if request.param == "fresh":
            await tx.execute("VACUUM ANALYZE webhook_delivery")
        claims = await deliveries.claim(tx, limit=HELD, share=HELD, busy={}, lease=LEASE)
    assert len(claims) == HELD
    return [Attempted(claim, "delivered", 200) for claim in claims]


@pytest.mark.parametrize("options", [SMALL, ""], ids=["direct", "through a pooler"])
async def test_deliveries_are_settled_and_given_back_by_their_ids(
    deliveries_under_way: list[Attempted], database_url: str, options: str
) -> None:
    claims = [one.claim for one in deliveries_under_way]
    patience = timedelta(days=1)
    tx = await database.connect(database_url, options=options)
    try:
        explain = Explain(tx)
        await deliveries.release(explain, claims[: HELD // 2])
        await deliveries.settle(explain, deliveries_under_way[HELD // 2 :], patience=patience)
    finally:
        await tx.close()
    released, settled, *_ = explain.plans
    assert rows_read(released, "webhook_delivery") <= HELD
    assert rows_read(settled, "webhook_delivery") <= HELD


async def sequential_scans(tx: Tx) -> int:
    """Return how often this test's queue was read from one end to the other."""
    await rows(tx, "SELECT pg_stat_force_next_flush()")
    await rows(tx, "SELECT 1")
    query = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'due_work'"
    [(count,)] = await rows(tx, query)
    return int(count)
