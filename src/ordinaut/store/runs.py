"""Runs as they are looked at: those that have not ended and those that have, in one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ordinaut.errors import NotFound
from ordinaut.model import Json, RunStatus, StepRecord, Trigger
from ordinaut.store.database import Queries, Tx

SQL = Queries("runs")

STATES: Final[dict[RunStatus, tuple[str, ...]]] = {
    "queued": ("ready", "scheduled"),
    "running": ("leased",),
    "waiting": ("waiting",),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a task over all its attempts.

    ``payload`` is what this run added to the definition of its task, ``wait`` what a suspended
    one waits for, ``progress`` how far the step has come that runs.
    """

    id: UUID
    task_id: UUID
    task_version: int
    status: RunStatus
    trigger: Trigger
    attempt: int
    scheduled_for: datetime | None
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    worker_id: UUID | None
    payload: Json
    output: Json
    error: Json
    wait: Json
    cancel_requested: bool
    progress: Json
    task_title: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which runs are meant; an ``owner`` of ``None`` means everybody's."""

    owner: UUID | None = None
    task_id: UUID | None = None
    statuses: tuple[RunStatus, ...] = ()
    trigger: Trigger | None = None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds below which half, 95 % and 99 % of the runs stay."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Stats:
    """How many runs there are by status, and how long those took that ended."""

    counts: Mapping[str, int] = field(default_factory=dict)
    duration: Percentiles | None = None
    lateness: Percentiles | None = None


async def page(tx: Tx, wanted: Filter, *, limit: int, before: UUID | None = None) -> list[Run]:
    """Return the newest runs with ``id < before`` that fit."""
    ended = [status for status in wanted.statuses if status not in STATES]
    states = [state for status in wanted.statuses for state in STATES.get(status, ())]
    cursor = await tx.execute(
        SQL["page"],
        {
            "owner": wanted.owner,
            "task_id": wanted.task_id,
            "states": states if wanted.statuses else None,
            "statuses": ended if wanted.statuses else None,
            "trigger": wanted.trigger,
            "before": before,
            "limit": limit,
        },
    )
    return [Run(*row) for row in await cursor.fetchall()]


async def get(tx: Tx, run_id: UUID, *, owner: UUID | None = None) -> Run:
    """Return a run; raises :class:`NotFound` for one that is not the owner's as well."""
    cursor = await tx.execute(SQL["get"], {"id": run_id, "owner": owner})
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"there is no run {run_id}")
    return Run(*row)


async def steps(tx: Tx, run_id: UUID) -> list[StepRecord]:
    """Return the checkpoints of a run in the order in which they began."""
    cursor = await tx.execute(SQL["steps"], {"id": run_id})
    return [step_record(*row) for row in await cursor.fetchall()]


async def stats(
    tx: Tx, *, since: datetime, owner: UUID | None = None, task_id: UUID | None = None
) -> Stats:
    """Count what lives now and what ended among the runs created ``since`` then."""
    values = {"since": since, "owner": owner, "task_id": task_id}
    live = await (await tx.execute(SQL["live"], values)).fetchall()
    ended = await (await tx.execute(SQL["ended"], values)).fetchall()
    counts = {status: count for status, count, *_ in [*live, *ended] if status is not None}
    whole = next((row for row in ended if row[0] is None), None)
    if whole is None:
        return Stats(counts)
    return Stats(counts, _percentiles(whole[2]), _percentiles(whole[3]))


def _percentiles(values: Sequence[float | None] | None) -> Percentiles | None:
    # A run that was canceled before it started has neither duration nor lateness.
    known = [value for value in values or () if value is not None]
    return Percentiles(*known) if len(known) == 3 else None


def step_record(*row: Any) -> StepRecord:
    """Return the checkpoint in a row of :data:`SQL` ``steps``."""
    step_id, status, attempt, started_at, finished_at, uses, item, output, error = row
    index = None if item < 0 else item
    return StepRecord(step_id, status, attempt, started_at, finished_at, uses, index, output, error)
