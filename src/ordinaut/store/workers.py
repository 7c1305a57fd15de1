"""The processes of the cluster as they report themselves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias
from uuid import UUID

from ordinaut.model import Json
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import encode

SQL = Queries("workers")

SILENCE: Final = timedelta(minutes=1)  # of a process that reports every few seconds

Kind: TypeAlias = Literal["worker", "scheduler", "api"]
State: TypeAlias = Literal["running", "draining", "stopped"]


async def report(
    tx: Tx,
    worker_id: UUID,
    *,
    host: str,
    pid: int,
    version: str,
    state: State,
    details: Json,
    kind: Kind = "worker",
) -> datetime:
    """Write down that a process lives and how it fares; return the database's time."""
    cursor = await tx.execute(
        SQL["report"],
        {
            "id": worker_id,
            "kind": kind,
            "host": host,
            "pid": pid,
            "version": version,
            "state": state,
            "details": encode(details),
        },
    )
    row = await cursor.fetchone()
    assert row is not None  # the statement inserts or updates, and so returns a row
    reading: datetime = row[0]
    return reading


async def mark_lost(tx: Tx, *, now: datetime | None = None) -> list[UUID]:
    """Mark the processes that have not reported for :data:`SILENCE`; return those newly found.

    One that reports again after all is running, and says ``worker.started`` once more.
    """
    found = await tx.execute(SQL["mark_lost"], {"now": now, "silence": SILENCE})
    return [worker_id for (worker_id,) in await found.fetchall()]
