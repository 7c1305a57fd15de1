"""What the tests of the queue and the worker share: tasks and runs in a few words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.model import Json, Lane, Lease, NewWork, StepRecord, uuid7
from ordinaut.store import queue, results
from ordinaut.store.database import Database, Tx

# Time travels in these tests, but a run's id carries the real time: stay on this day.
NOW = datetime.now(UTC)
LEASE = timedelta(seconds=30)
WORKER = UUID(int=1)
OTHER = UUID(int=2)
PIPELINE = {"pipeline": [{"id": "only", "uses": "core.log", "with": {"message": "hello"}}]}


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


async def make_task(db: Database, *, payload: Json = None, **columns: Any) -> UUID:
    """Store an active task with one version and return its id."""
    task_id, agent_id = uuid7(), uuid7()
    values = {"id": task_id, "title": "a task", "schedule_kind": "event", "schedule_expr": "x",
              "timezone": "UTC", "anchor": NOW, "created_by": agent_id, **columns}  # fmt: skip
    names = ", ".join(values)
    async with db.transaction() as tx:
        await tx.execute(
            "INSERT INTO agent (id, name) VALUES (%s, %s)", (agent_id, f"agent {agent_id}")
        )
        await tx.execute(
            f"INSERT INTO task ({names}) VALUES ({', '.join(['%s'] * len(values))})",
            list(values.values()),
        )
        await tx.execute(
            "INSERT INTO task_definition (task_id, version, payload) VALUES (%s, 1, %s)",
            (task_id, Jsonb(PIPELINE if payload is None else payload)),
        )
    return task_id


def work(task_id: UUID, **changes: Any) -> NewWork:
    """Return one run that is due now; the fields of its lane may be named as well."""
    named = {name: changes.pop(name) for name in Lane._fields if name in changes}
    values: dict[str, Any] = {
        "id": uuid7(),
        "task_id": task_id,
        "task_version": 1,
        "scheduled_for": None,
        "run_at": NOW,
        "priority": 5,
        "trigger": "run_now",
        "lane": Lane(**named),
        **changes,
    }
    return NewWork(**values)


async def enqueue(db: Database, *items: NewWork, now: datetime = NOW) -> list[UUID]:
    async with db.transaction() as tx:
        return await queue.enqueue(tx, items, now=now)


async def lease(
    db: Database, *, worker: UUID = WORKER, limit: int = 100, now: datetime = NOW
) -> list[Lease]:
    async with db.connection() as tx:
        leased = await queue.lease(tx, worker_id=worker, limit=limit, lease_for=LEASE, now=now)
    return leased.leases


def ended(held: Lease, **changes: Any) -> results.Ended:
    """Return the success of a run."""
    earlier = results.facts(held, changes.get("steps", ()), announce=changes.get("announce", True))
    values: dict[str, Any] = {
        "lease": held, "status": "succeeded", "started_at": NOW.timestamp(),
        "finished_at": NOW.timestamp(), "earlier": earlier, **encoded(changes),
    }  # fmt: skip
    return results.Ended(**values)


def parked(held: Lease, **changes: Any) -> results.Parked:
    """Return a retry, or with ``wait`` a suspension."""
    values: dict[str, Any] = {"lease": held, "run_at": later(8), **encoded(changes)}
    return results.Parked(**values)


def checkpoint(held: Lease, *records: StepRecord, announce: bool = True) -> results.Checkpoint:
    return results.Checkpoint(lease=held, steps=results.step_rows(records), announce=announce)


def encoded(changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``changes`` with JSON texts in place of JSON values."""
    texts = {k: results.encode(changes[k]) for k in ("output", "error", "wait") if k in changes}
    steps = {"steps": results.step_rows(changes["steps"])} if "steps" in changes else {}
    return {**changes, **texts, **steps}


def step(step_id: str = "only", **changes: Any) -> StepRecord:
    """Return the checkpoint of a step that succeeded."""
    values: dict[str, Any] = {
        "step_id": step_id, "status": "succeeded", "attempt": 1, "started_at": NOW,
        "finished_at": NOW, "uses": "core.log", "output": {"logged": True}, **changes,
    }  # fmt: skip
    return StepRecord(**values)


async def settle(db: Database, *batch: results.Ended, worker: UUID = WORKER) -> set[UUID]:
    async with db.connection() as tx:
        return await queue.settle(tx, batch, worker_id=worker)


async def rows(db: Database | Tx, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    if isinstance(db, Database):
        async with db.connection() as tx:
            return await rows(tx, query, *parameters)
    return await (await db.execute(query, parameters)).fetchall()  # type: ignore[arg-type]


async def topics(db: Database, run_id: UUID) -> list[str]:
    """Return the topics of a run's events in their order."""
    found = await rows(db, "SELECT topic FROM fact WHERE run_id = %s ORDER BY seq", run_id)
    return [topic for (topic,) in found]


async def status_of(db: Database, run_id: UUID) -> str:
    """Return a run's state in the queue, or its status in the history."""
    [(status,)] = await rows(
        db,
        "SELECT state FROM due_work WHERE id = %s UNION ALL "
        "SELECT status FROM task_run WHERE id = %s",
        run_id,
        run_id,
    )
    return str(status)


def ids(leases: Sequence[Lease]) -> list[UUID]:
    return [held.id for held in leases]
