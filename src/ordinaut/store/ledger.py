"""The ledger: what became of every occurrence of a task, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ordinaut.model import Verdict
from ordinaut.store.database import Queries, Tx

SQL = Queries("ledger")


@dataclass(frozen=True, slots=True)
class Skipped:
    """An occurrence that does not become a run, or not at its own time, with the reason."""

    task_id: UUID
    scheduled_for: datetime
    verdict: Verdict
    reason: str


async def record(tx: Tx, skipped: Sequence[Skipped], *, now: datetime | None = None) -> None:
    """Keep verdicts; the first one on an occurrence stays, unless it was only snoozed."""
    if not skipped:
        return
    await tx.execute(
        SQL["record"],
        {
            "task_ids": [s.task_id for s in skipped],
            "ats": [s.scheduled_for for s in skipped],
            "verdicts": [s.verdict for s in skipped],
            "reasons": [s.reason for s in skipped],
            "now": now,
        },
    )
