"""How the cluster fares: its processes and how much work there is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from ordinaut.model import Json
from ordinaut.store.database import Queries, Tx
from ordinaut.store.workers import SILENCE

SQL = Queries("cluster")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it reported last; ``lost`` when it should have reported since."""

    id: UUID
    kind: Literal["worker", "scheduler", "api"]
    host: str
    pid: int
    version: str
    state: Literal["running", "draining", "stopped", "lost"]
    details: Json
    started_at: datetime
    heartbeat_at: datetime
    leases: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """Due work in one state."""

    state: Literal["scheduled", "ready", "leased", "waiting"]
    count: int
    oldest_run_at: datetime


async def workers(tx: Tx, *, now: datetime) -> list[Process]:
    """Return the processes of the last day."""
    cursor = await tx.execute(SQL["workers"], {"now": now, "silence": SILENCE})
    return [Process(*row) for row in await cursor.fetchall()]


async def queue(tx: Tx) -> list[QueueState]:
    """Return how much work there is in each state that has any."""
    cursor = await tx.execute(SQL["queue"])
    return [QueueState(*row) for row in await cursor.fetchall()]


async def ping(tx: Tx) -> None:
    """Do nothing, on the server."""
    await tx.execute(SQL["ping"])
