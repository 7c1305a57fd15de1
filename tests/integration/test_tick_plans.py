"""The hot statements of the scheduler keep to their indexes when the tables are large."""

from __future__ import annotations

from typing import Any

import pytest

from ordinaut.store import journal, schedules
from ordinaut.store.database import Database, Queries
from ticking import AGENT, START, rows

TASKS = 10_000


@pytest.fixture
async def large(db: Database) -> Database:
    """A database with many schedules, of which few are due, and many events."""
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO agent (id, name) VALUES (%s, 'tester')", (AGENT,))
        await tx.execute(
            "INSERT INTO task (id, title, schedule_kind, schedule_expr, timezone, anchor,"
            " created_by) SELECT gen_random_uuid(), 't', 'cron', '* * * * *', 'UTC', %s, %s"
            " FROM generate_series(1, %s)",
            (START, AGENT, TASKS),
        )
        await tx.execute(
            "INSERT INTO schedule (task_id, next_run_at)"
            " SELECT id, %s::timestamptz + random() * interval '1 day' FROM task",
            (START,),
        )
    async with db.connection() as tx:
        for _ in range(TASKS // 100):
            await tx.execute(
                "INSERT INTO event (topic) SELECT 'test.made' FROM generate_series(1, 100)"
            )
        await tx.execute("ANALYZE")
    return db


async def plan_of(db: Database, statements: Queries, name: str, values: dict[str, Any]) -> str:
    async with db.connection() as tx:
        cursor = await tx.execute(f"EXPLAIN {statements[name]}", values)
        return "\n".join(line for (line,) in await cursor.fetchall())


@pytest.mark.parametrize("now", [START, None])
async def test_claiming_reads_the_due_from_their_index(large: Database, now: object):
    plan = await plan_of(large, schedules.SQL, "claim", {"limit": 100, "now": now})
    assert "Index Scan using schedule_due" in plan
    assert "Sort" not in plan


async def test_the_next_wake_is_one_look_into_the_index(large: Database):
    plan = await plan_of(large, schedules.SQL, "next_due", {})
    assert "using schedule_due" in plan
    assert "Sort" not in plan


async def test_loading_reads_only_what_was_claimed(large: Database):
    ids = await rows(large, "SELECT task_id FROM schedule LIMIT 20")
    literal = "{" + ",".join(str(id) for (id,) in ids) + "}"
    plan = await plan_of(large, schedules.SQL, "load", {"ids": literal})
    assert "Seq Scan" not in plan


async def test_fresh_events_are_found_without_reading_the_old_ones(large: Database):
    [(snapshot,)] = await rows(large, "SELECT pg_current_snapshot()::text")
    [(full,)] = await rows(large, "SELECT DISTINCT tableoid::regclass::text FROM event")
    for seen in (snapshot, snapshot.rsplit(":", 1)[0] + ":"):
        plan = await plan_of(large, journal.SQL, "fresh", {"snapshot": seen, "limit": 1_000})
        assert f"Seq Scan on {full}" not in plan, plan
        assert f"{full}_xid_seq_idx" in plan, plan


async def test_a_backlog_is_read_in_the_order_of_its_index(large: Database):
    values = {"seq": 2_000_000, "target": "1:999999:", "snapshot": "1:1:", "limit": 100}
    plan = await plan_of(large, journal.SQL, "backlog", values)
    assert "seq_idx" in plan
    assert "Seq Scan on event_2" not in plan
