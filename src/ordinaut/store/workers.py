"""The processes of the cluster as they report themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

from ordinaut.model import Json
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import encode

SQL = Queries("workers")

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
