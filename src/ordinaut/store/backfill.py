"""Runs for occurrences that are past: what was missed, skipped, or lies before the task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from ordinaut.engine.schedule import CompiledSchedule
from ordinaut.store import ledger, queue
from ordinaut.store.database import Tx
from ordinaut.store.schedules import Timed

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Backfilled:
    """The runs that were made; ``go_on_after`` when more occurrences follow in the range."""

    run_ids: list[UUID]
    occurrences: int
    go_on_after: datetime | None


async def backfill(
    tx: Tx,
    task: Timed,
    schedule: CompiledSchedule,
    *,
    since: datetime,
    until: datetime,
    limit: int,
    now: datetime,
    again: bool = False,
) -> Backfilled:
    """Enqueue runs for the first ``limit`` occurrences from ``since`` to ``until``, both included.

    Only what is decided: the tick itself will see to the rest. Occurrences that have a run are
    left out, unless they shall run ``again``; one that is queued is never queued twice. The
    caller holds the lock of the task's schedule.
    """
    last = min(until, task.decided_until)
    found = schedule.between(since - _MICROSECOND, last, limit=limit + 1)
    ats = [occurrence.at for occurrence in found[:limit]]
    done = set() if again else await ledger.with_runs(tx, task.task_id, ats)
    work = [task.run("backfill", run_at=now, scheduled_for=at) for at in ats if at not in done]
    made = await queue.enqueue(tx, work, now=now)
    return Backfilled(made, len(ats), ats[-1] if len(found) > limit else None)
