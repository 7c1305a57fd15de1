"""The schedulers' pulse, and the times in which there was none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ordinaut.store.database import Queries, Tx

SQL = Queries("pulse")

SILENCE = timedelta(seconds=5)  # longer than a restart that an operator would not call an outage


@dataclass(frozen=True, slots=True)
class Downtime:
    """A time in which no scheduler ticked."""

    began_at: datetime
    ended_at: datetime


async def beat(tx: Tx, *, now: datetime | None = None) -> Downtime | None:
    """Note that a scheduler lives; returns the downtime that this ended, if it did.

    Every scheduler beats before its first tick, and then about once a second.
    """
    cursor = await tx.execute(SQL["beat"], {"now": now, "silence": SILENCE})
    row = await cursor.fetchone()
    return Downtime(*row) if row else None


async def downtimes(tx: Tx, *, since: datetime) -> list[Downtime]:
    """Return the downtimes that ended after ``since``, in order."""
    cursor = await tx.execute(SQL["downtimes"], {"since": since})
    return [Downtime(*row) for row in await cursor.fetchall()]
