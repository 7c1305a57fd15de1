"""Runs that wait, and the answers that let them go on.

A waiting run is a row of ``due_work`` in the state ``waiting``; each of its questions is the
record of a step in the status ``waiting``. An answer changes the record and makes the run ready,
in one transaction. A run may be under way while one of its questions is open, when something
else woke it; the answer then only changes the record, and the run finds it when it waits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from ordinaut.model import Json, StepRecord
from ordinaut.store import runs
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import NO_ITEM, array, encode

SQL = Queries("waits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the record of a waiting step becomes."""

    run_id: UUID
    step_id: str
    index: int | None = None
    status: Literal["succeeded", "failed"] = "succeeded"
    output: Json = None
    error: Json = None
    announce: bool = True  # as step.succeeded


@dataclass(frozen=True, slots=True)
class Held:
    """A run that has not ended, kept as it is until commit."""

    state: str
    now: datetime


async def hold(tx: Tx, run_ids: Sequence[UUID], *, now: datetime | None = None) -> dict[UUID, Held]:
    """Keep those of these runs as they are that have not ended."""
    cursor = await tx.execute(SQL["hold"], {"run_ids": list(run_ids), "now": now})
    return {run_id: Held(*rest) for run_id, *rest in await cursor.fetchall()}


async def questions(tx: Tx, run_id: UUID) -> list[StepRecord]:
    """Return the steps of a run that wait, and those that a person has answered."""
    cursor = await tx.execute(SQL["questions"], {"run_id": run_id})
    return [runs.step_record(*row) for row in await cursor.fetchall()]


async def answer(
    tx: Tx, answers: Sequence[Answer], *, reason: str, now: datetime | None = None
) -> set[tuple[UUID, str, int | None]]:
    """Answer steps and make their runs ready; return the steps that did wait for it.

    The caller holds the runs.
    """
    parameters = {
        "now": now,
        "reason": reason,
        "run_ids": array([a.run_id for a in answers]),
        "step_ids": array([a.step_id for a in answers]),
        "items": array([NO_ITEM if a.index is None else a.index for a in answers]),
        "statuses": array([a.status for a in answers]),
        "outputs": array([None if a.output is None else encode(a.output) for a in answers]),
        "errors": array([None if a.error is None else encode(a.error) for a in answers]),
        "announce": array([a.announce for a in answers]),
    }
    rows = await (await tx.execute(SQL["answer"], parameters)).fetchall()
    return {(run_id, step_id, _index(item)) for run_id, step_id, item in rows}


def _index(item: int) -> int | None:
    return None if item == NO_ITEM else item
