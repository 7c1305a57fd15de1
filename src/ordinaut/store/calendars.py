"""Calendars: named sets of days on which a task that excludes them does not run."""

from __future__ import annotations

from collections.abc import Iterable

from ordinaut.engine.calendar import Calendar, parse_calendar
from ordinaut.store.database import Queries, Tx

SQL = Queries("calendars")


async def named(tx: Tx, names: Iterable[str]) -> dict[str, Calendar]:
    """Return those of the calendars that exist."""
    if not (wanted := sorted(set(names))):
        return {}
    cursor = await tx.execute(SQL["definitions"], {"names": wanted})
    return {name: parse_calendar(name, said) for name, said in await cursor.fetchall()}
