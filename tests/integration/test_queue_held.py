"""Leasing while an old transaction keeps dead rows in front of the living ones."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from ordinaut.engine.registry import ToolRegistry
from ordinaut.model import NOBODY, Json, Lane, uuid7
from ordinaut.store import queue
from ordinaut.store.database import Database
from ordinaut.workers import leaser
from queueing import LEASE, NOW, WORKER, ended, enqueue, ids, later, make_task, settle, work
from working import until_ended, worker

pytestmark = pytest.mark.pooled


async def look(db: Database, **options: Any) -> queue.Leased:
    async with db.connection() as tx:
        given = {"worker_id": WORKER, "lease_for": LEASE, "now": NOW, **options}
        return await queue.lease(tx, **given)


async def test_a_lease_beyond_a_mark_takes_what_comes_behind_it_and_a_whole_one_the_rest(
    db: Database,
) -> None:
    task_id = await make_task(db)
    items = [work(task_id, run_at=later(n - 60)) for n in range(6)]
    await enqueue(db, *items)
    first = await look(db, limit=2)
    urgent, keyed = work(task_id, priority=9), work(task_id, lane=Lane("k", 1))
    await enqueue(db, urgent, keyed)
    behind = await look(db, limit=3, beyond=first.mark)
    assert ids(first.leases) + ids(behind.leases) == ids(items[:5])
    assert (behind.more, behind.keyed) == (True, False)
    last = await look(db, limit=9, beyond=behind.mark)
    assert (ids(last.leases), last.more) == (ids(items[5:]), False)
    assert (await look(db, limit=9, beyond=last.mark)).mark is None
    assert ids((await look(db, limit=9)).leases) == [urgent.id, keyed.id]


async def test_agents_behind_a_mark_have_equal_shares(db: Database) -> None:
    owner: dict[UUID, UUID] = {}
    task_id, agents = await make_task(db), (uuid7(), uuid7())
    for agent, runs in zip(agents, (40, 10), strict=True):
        items = [work(task_id, run_at=later(n - 60), created_by=agent) for n in range(runs)]
        await enqueue(db, *items)
        owner |= dict.fromkeys(ids(items), agent)
    found = await look(db, limit=4)
    mark, shares = found.mark, []
    assert mark is not None
    assert mark.agents == set(agents)
    while (found := await look(db, limit=4, beyond=mark)).leases:
        shares.append([owner[run] for run in ids(found.leases)].count(agents[1]))
    assert shares == [2, 2, 2, 2, *[0] * 15]


async def test_a_worker_whose_leases_take_long_loses_and_forgets_nothing(
    db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaser, "LONG", 0.0)  # as if dead rows lay in front from now on
    behind: list[bool] = []
    asked, given = [queue.START], [queue.START]
    lease = queue.lease

    async def noting(*args: Any, beyond: queue.Mark | None = None, **options: Any) -> queue.Leased:
        found = await lease(*args, beyond=beyond, **options)
        behind.append(beyond is not None)
        if beyond is None:
            asked.append(options["turn"])
            given.append(found.turn)
        return found

    monkeypatch.setattr(queue, "lease", noting)
    payload: Json = {"pipeline": [{"uses": "test.echo"}]}
    task_id, agents = await make_task(db, payload=payload), [uuid7() for _ in range(100)]
    registry = ToolRegistry()
    registry.register("test.echo", echo)
    first = [work(task_id, created_by=agent) for agent in agents for _ in range(3)]
    await enqueue(db, *first)
    async with worker(database_url, registry):
        for number in range(200):
            agent, priority = agents[number % 3], number % 9 + 1
            await enqueue(db, work(task_id, priority=priority, created_by=agent))
        await until_ended(db, 500)
    assert any(behind)
    assert not all(behind)
    assert asked[1:] == given[:-1]  # the agents' turn goes on where the last whole lease left it
    assert any(turn.agent != NOBODY for turn in given)


async def echo(value: Any = None) -> Any:
    return value


async def test_what_died_before_the_mark_is_not_visited(db: Database, database_url: str) -> None:
    task_id = await make_task(db)
    with psycopg.connect(database_url) as idle:
        idle.execute("SELECT pg_current_xact_id()")  # keeps what dies from now on
        for number in range(10):
            at = later(number - 60)
            await enqueue(db, *(work(task_id, run_at=at) for _ in range(500)))
            found = await look(db, limit=500)
            await settle(db, *(ended(held) for held in found.leases))
        await enqueue(db, *(work(task_id) for _ in range(10)))
        whole = await pages(db, "lease")
        beyond = await pages(
            db, "lease_beyond", agents=list(found.mark.agents), place=found.mark.place
        )
    assert 3 * beyond < whole


async def pages(db: Database, name: str, **more: Any) -> int:
    """Return how many pages a statement looks at; what it does is undone."""
    given = {
        "worker_id": WORKER,
        "limit": 10,
        "lease_for": LEASE,
        "turn": NOBODY,
        "now": NOW,
        **more,
    }
    async with db.connection() as tx, tx.transaction(force_rollback=True):
        await tx.execute("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) "
        [([found],)] = await (await tx.execute(explain + queue.SQL[name], given)).fetchall()
    plan = found["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
