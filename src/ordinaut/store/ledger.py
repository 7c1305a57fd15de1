"""The ledger: what became of every occurrence of a task, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ordinaut.model import Event, Json, RunStatus, Trigger, Verdict
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import array

SQL = Queries("ledger")


@dataclass(frozen=True, slots=True)
class Skipped:
    """An occurrence that does not become a run, or not at its own time, with the reason."""

    task_id: UUID
    scheduled_for: datetime
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one occurrence: its run with the run's status, or why there is none."""

    scheduled_for: datetime
    verdict: Verdict
    reason: str
    run_id: UUID | None
    run_status: RunStatus | None
    decided_at: datetime


async def record(tx: Tx, skipped: Sequence[Skipped], *, now: datetime | None = None) -> None:
    """Keep verdicts; the first one on an occurrence stays, unless it was only snoozed."""
    if not skipped:
        return
    await tx.execute(
        SQL["record"],
        {
            "task_ids": array([s.task_id for s in skipped]),
            "ats": array([s.scheduled_for for s in skipped]),
            "verdicts": array([s.verdict for s in skipped]),
            "reasons": [s.reason for s in skipped],
            "now": now,
        },
    )


def announce(skipped: Sequence[Skipped], *, trigger: Trigger | None = None) -> list[Event]:
    """Return the event, if any, that tells what one task skipped.

    What a ``trigger`` other than the clock caused is told with its last reason.
    """
    if not skipped:
        return []
    ats = sorted(one.scheduled_for for one in skipped)
    data: dict[str, Json] = {
        "verdicts": Counter(one.verdict for one in skipped),
        "first": ats[0].isoformat(),
        "last": ats[-1].isoformat(),
    }
    if trigger is not None:
        data |= {"reason": skipped[-1].reason, "trigger": trigger}
    return [Event("task.skipped", data, skipped[0].task_id)]


async def occurrences(
    tx: Tx, task_id: UUID, *, after: datetime, until: datetime, limit: int
) -> list[Entry]:
    """Return what became of the occurrences in ``(after, until]``, the latest first."""
    cursor = await tx.execute(
        SQL["occurrences"],
        {"task_id": task_id, "after": after, "until": until, "limit": limit},
    )
    return [Entry(*row) for row in await cursor.fetchall()]


async def with_runs(tx: Tx, task_id: UUID, ats: Sequence[datetime]) -> set[datetime]:
    """Return those of the occurrences that have a run."""
    if not ats:
        return set()
    values = {"task_id": task_id, "ats": list(ats), "first": min(ats)}
    cursor = await tx.execute(SQL["with_runs"], values)
    return {at for (at,) in await cursor.fetchall()}
