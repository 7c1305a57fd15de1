"""What tools say while they run: the lines of their log, and how far they have come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ordinaut.model import Json, Lease
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import NO_ITEM, encode

SQL = Queries("runlog")

LINES_BITS = 20  # of a place, for the lines of one attempt


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a run, at its place."""

    run_id: UUID
    seq: int
    at: datetime
    level: str
    step_id: str
    index: int | None
    message: str
    fields: Json


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the step of a run has come that is held by ``lease``."""

    lease: Lease
    progress: Json


def place(lease: Lease, number: int) -> int:
    """Return the place of the ``number``-th line of an attempt among those of its run."""
    return lease.token << LINES_BITS | number


async def write(tx: Tx, lines: Sequence[Line]) -> None:
    """Keep lines; to write one twice is to write it once."""
    parameters = {
        "run_ids": [line.run_id for line in lines],
        "seqs": [line.seq for line in lines],
        "ats": [line.at for line in lines],
        "levels": [line.level for line in lines],
        "step_ids": [line.step_id for line in lines],
        "items": [NO_ITEM if line.index is None else line.index for line in lines],
        "messages": [line.message for line in lines],
        "fields": [encode(line.fields) for line in lines],
    }
    await tx.execute(SQL["write"], parameters)


async def tell(tx: Tx, batch: Sequence[Progress], *, worker_id: UUID) -> None:
    """Keep how far runs have come, and write it into the outbox."""
    parameters = {
        "worker_id": worker_id,
        "ids": [one.lease.id for one in batch],
        "tokens": [one.lease.token for one in batch],
        "progress": [encode(one.progress) for one in batch],
    }
    await tx.execute(SQL["progress"], parameters)


async def page(
    tx: Tx,
    run_id: UUID,
    *,
    limit: int,
    levels: Sequence[str],
    after: int = 0,
    step_id: str | None = None,
) -> list[Line]:
    """Return the lines of a run behind the place ``after``, in their order."""
    values = {
        "run_id": run_id,
        "after": after,
        "levels": list(levels),
        "step_id": step_id,
        "limit": limit,
    }
    rows = await (await tx.execute(SQL["page"], values)).fetchall()
    return [_line(run_id, *row) for row in rows]


def _line(
    run_id: UUID,
    seq: int,
    at: datetime,
    level: str,
    step_id: str,
    item: int,
    message: str,
    fields: Json,
) -> Line:
    index = None if item == NO_ITEM else item
    return Line(run_id, seq, at, level, step_id, index, message, fields)
