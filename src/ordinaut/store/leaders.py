"""Duties that one process at a time may do: a lease row with an epoch, no session state.

So it also holds behind a pooler. A holding ends by itself when it is not renewed; its epoch
fences the writes of a holder that slept through that.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypeAlias
from uuid import UUID

from ordinaut.store.database import Queries, Tx

Duty: TypeAlias = Literal["housekeeping", "relay"]

SQL = Queries("leaders")


async def seize(tx: Tx, duty: Duty, *, holder: UUID, lease: timedelta) -> int | None:
    """Take a duty that is free or renew our own; returns the epoch, None when another has it."""
    cursor = await tx.execute(SQL["seize"], {"name": duty, "holder": holder, "lease": lease})
    row = await cursor.fetchone()
    return row[0] if row else None


async def resign(tx: Tx, duty: Duty, *, holder: UUID, epoch: int) -> None:
    """Give a duty back so that another need not wait; harmless when it is not ours any more."""
    await tx.execute(SQL["resign"], {"name": duty, "holder": holder, "epoch": epoch})


async def confirm(tx: Tx, duty: Duty, *, epoch: int) -> bool:
    """Tell whether a holding still counts, and keep it so until commit."""
    cursor = await tx.execute(SQL["confirm"], {"name": duty, "epoch": epoch})
    return await cursor.fetchone() is not None


async def guard(tx: Tx, *, stall: timedelta) -> None:
    """Let PostgreSQL end this transaction when its process is silent for longer than ``stall``.

    So the locks of a process that froze do not stop those that work.
    """
    await tx.execute(SQL["guard"], {"stall": str(int(stall.total_seconds() * 1000))})
