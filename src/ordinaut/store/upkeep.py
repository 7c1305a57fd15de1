"""Keeping the store in shape: partitions made in time, old rows gone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal, TypeAlias

from psycopg import errors

from ordinaut.store import deliveries, triggers
from ordinaut.store.database import Database, Queries, Tx

Parent: TypeAlias = Literal["task_run", "step_run", "run_log", "event"]

SQL = Queries("upkeep")

RUN_TABLES: tuple[Parent, ...] = ("task_run", "step_run", "run_log")
# Whose places in the outbox move on with every event. Not that of the runs that wait: it stands
# still while none does, and one that begins to wait looks back by itself.
READERS = ["relay", triggers.CURSOR, deliveries.CURSOR]
_OF_LIVE_RUNS = ("step_run", "run_log")

# What is deleted by age, and how old it may become at most.
_BRIEF = (
    ("old_answers", timedelta(days=1)),
    ("old_tokens", timedelta(days=1)),
    ("old_sessions", timedelta(days=1)),
    ("old_revocations", timedelta(0)),
    ("old_processes", timedelta(days=1)),
    ("old_starts", timedelta(0)),
    ("old_signatures", timedelta(0)),
)
_WITH_RUNS = (
    "old_runs",
    "old_steps",
    "old_lines",
    "old_occurrences",
    "old_downtimes",
    "old_pauses",
)


async def ensure_partitions(db: Database, *, first: date, days: int) -> list[date]:
    """Prepare the partitions of ``days`` days; returns the days that could not be.

    A day that began without its partition has rows in the default one, and PostgreSQL does not
    part them. That day stays there, and must not keep the days after it from being prepared.
    """
    missed = []
    for day in (first + timedelta(days=n) for n in range(days)):
        try:
            async with db.transaction() as tx:
                await tx.execute(SQL["ensure_partitions"], {"first": day, "days": 1})
        except errors.CheckViolation:
            missed.append(day)
    return missed


async def drop_partitions(tx: Tx, parent: Parent, *, before: date) -> list[str]:
    """Drop the partitions of days before ``before``; returns their names.

    A day of which a run has not ended (it may wait for months) keeps its checkpoints.
    """
    await tx.execute(SQL["lock_timeout"])
    found = await (await tx.execute(SQL["partitions"], {"parent": parent})).fetchall()
    old = [name for (name,) in found if name.removeprefix(f"{parent}_") < f"{before:%Y%m%d}"]
    if parent in _OF_LIVE_RUNS:
        old = [name for name in old if not await _lives(tx, _day(name))]
    for name in old:
        await tx.execute(SQL["drop_partition"], {"name": name})
    return old


async def _lives(tx: Tx, day: datetime) -> bool:
    values = {"begins": day, "ends": day + timedelta(days=1)}
    row = await (await tx.execute(SQL["lives"], values)).fetchone()
    return row is not None and bool(row[0])


def _day(partition: str) -> datetime:
    return datetime.strptime(partition[-8:], "%Y%m%d").replace(tzinfo=UTC)


async def is_read(tx: Tx, *, before: datetime) -> bool:
    """Tell whether all readers of the outbox have passed the events older than ``before``."""
    values = {"before": before, "readers": READERS}
    row = await (await tx.execute(SQL["is_read"], values)).fetchone()
    return row is not None and bool(row[0])


async def drop_brief(tx: Tx, *, now: datetime, limit: int) -> int:
    """Delete up to ``limit`` runs, and verdicts, of tasks with a retention of their own.

    Returns the greater of the two numbers: with ``limit`` there may be more.
    """
    values = {"now": now, "limit": limit}
    runs = (await tx.execute(SQL["brief_runs"], values)).rowcount
    return max(runs, (await tx.execute(SQL["brief_occurrences"], values)).rowcount)


async def sweep(
    tx: Tx,
    *,
    now: datetime,
    keep_runs: timedelta,
    keep_events: timedelta,
    keep_deliveries: timedelta,
) -> int:
    """Delete old rows outside the partitions; returns how many."""
    deleted = 0
    for name, age in _BRIEF:
        deleted += (await tx.execute(SQL[name], {"before": now - age})).rowcount
    for name in _WITH_RUNS:
        deleted += (await tx.execute(SQL[name], {"before": now - keep_runs})).rowcount
    for name, age in (("old_events", keep_events), ("old_deliveries", keep_deliveries)):
        values = {"before": now - age, "readers": READERS}
        deleted += (await tx.execute(SQL[name], values)).rowcount
    return deleted
