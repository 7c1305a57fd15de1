"""What the tests of the scheduler share: timed tasks and the instants of their runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.engine.calendar import Calendar
from ordinaut.engine.schedule import compile_schedule
from ordinaut.model import Schedule, uuid7
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.tick import TickResult, tick
from ordinaut.store import schedules
from ordinaut.store.database import Database

# In the past, because the id of a run carries the real time and is never older than its task.
START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)  # a Monday
AGENT = UUID(int=7)
PIPELINE = {"pipeline": [{"id": "only", "uses": "core.log", "with": {"message": "hello"}}]}
OF_SCHEDULE = ("timezone", "starts_at", "ends_at", "dst_gap", "dst_fold", "exclude", "on_excluded")


def after(**passed: float) -> datetime:
    """Return START and what has passed since."""
    return START + timedelta(**passed)


def schedule_of(kind: str, expr: str, *, born: datetime = START, **columns: Any) -> Schedule:
    """Return the schedule that a task with these columns has."""
    values = {name: columns[name] for name in OF_SCHEDULE if name in columns}
    values = {"timezone": "UTC", **values, "exclude": tuple(columns.get("exclude", ()))}
    return Schedule(kind, expr, anchor=born, **values)  # type: ignore[arg-type]


async def add_task(
    db: Database,
    kind: str,
    expr: str,
    *,
    born: datetime = START,
    calendars: Mapping[str, Calendar] | None = None,
    **columns: Any,
) -> UUID:
    """Store an active task that was created at ``born``, and return its id."""
    compiled = compile_schedule(
        schedule_of(kind, expr, born=born, **columns), calendars=calendars or {}
    )
    first = compiled.next(born)
    values = {"id": uuid7(), "title": expr, "schedule_kind": kind, "schedule_expr": expr,
              "timezone": "UTC", "anchor": born, "created_by": AGENT, "created_at": born,
              **columns}  # fmt: skip
    names, places = ", ".join(values), ", ".join(["%s"] * len(values))
    async with db.transaction() as tx:
        await tx.execute(
            "INSERT INTO agent (id, name) VALUES (%s, 'tester') ON CONFLICT DO NOTHING", (AGENT,)
        )
        await tx.execute(f"INSERT INTO task ({names}) VALUES ({places})", list(values.values()))
        await tx.execute(
            "INSERT INTO task_definition (task_id, version, payload) VALUES (%s, 1, %s)",
            (values["id"], Jsonb(PIPELINE)),
        )
        await schedules.set_next(tx, {values["id"]: first and first.at}, now=born)
    return values["id"]


async def tick_until(db: Database, now: datetime, *, limit: int = 2_000) -> list[TickResult]:
    """Tick at ``now`` until nothing more is due then."""
    results = []
    while not results or results[-1].more:
        results.append(await tick(db, Calendars(), limit=limit, now=now))
    return results


async def rows(db: Database, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return what a statement finds."""
    async with db.connection() as tx:
        return await (await tx.execute(statement, values)).fetchall()


async def enqueued(db: Database, task_id: UUID) -> list[datetime]:
    """Return the occurrences of a task that became runs, in order."""
    found = await rows(
        db, "SELECT scheduled_for FROM due_work WHERE task_id = %s ORDER BY 1", task_id
    )
    return [at.astimezone(UTC) for (at,) in found]


async def verdicts(db: Database, task_id: UUID) -> dict[datetime, str]:
    """Return the verdicts on occurrences that did not become runs."""
    found = await rows(
        db, "SELECT scheduled_for, verdict FROM occurrence WHERE task_id = %s ORDER BY 1", task_id
    )
    return {at.astimezone(UTC): verdict for at, verdict in found}


async def state(db: Database, task_id: UUID) -> tuple[str, datetime | None]:
    """Return a task's status and its next occurrence."""
    [(status, at)] = await rows(
        db,
        "SELECT t.status, s.next_run_at FROM task t JOIN schedule s ON s.task_id = t.id"
        " WHERE t.id = %s",
        task_id,
    )
    return status, at and at.astimezone(UTC)


async def finish_runs(db: Database) -> None:
    """End all runs, as workers would."""
    async with db.connection() as tx:
        await tx.execute("DELETE FROM due_work")


@contextmanager
def scheduler(database_url: str, redis_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real scheduler process, killed at the end if it still runs."""
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ORDINAUT_SECRET": "s" * 40,
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ordinaut", "scheduler"], env=env, stderr=out
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
