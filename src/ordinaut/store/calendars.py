"""Calendars: named sets of days on which a task that excludes them does not run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.engine.calendar import Calendar, parse_calendar
from ordinaut.errors import Conflict, NotFound
from ordinaut.model import Json, uuid7
from ordinaut.store.database import Queries, Tx

SQL = Queries("calendars")


@dataclass(frozen=True, slots=True)
class CalendarRecord:
    """A calendar as it is stored."""

    id: UUID
    name: str
    definition: Json
    version: int
    created_by: UUID
    created_at: datetime
    updated_at: datetime


async def named(tx: Tx, names: Iterable[str]) -> dict[str, Calendar]:
    """Return those of the calendars that exist, ready for a schedule."""
    if not (wanted := sorted(set(names))):
        return {}
    cursor = await tx.execute(SQL["definitions"], {"names": wanted})
    return {name: parse_calendar(name, said) for name, said in await cursor.fetchall()}


async def changed(
    tx: Tx, known: Mapping[str, tuple[UUID, int] | None]
) -> list[tuple[str, UUID, int, Json]]:
    """Return name, id, version and definition of those of the calendars that exist.

    The definition is None where the id and version in ``known`` are the present ones.
    """
    places = [place or (None, None) for place in known.values()]
    values = {
        "names": list(known),
        "ids": [place[0] for place in places],
        "versions": [place[1] for place in places],
    }
    cursor = await tx.execute(SQL["changed"], values)
    return [(name, id, version, said) for name, id, version, said in await cursor.fetchall()]


async def page(tx: Tx, *, limit: int, before: UUID | None = None) -> list[CalendarRecord]:
    """Return the newest calendars with ``id < before``."""
    cursor = await tx.execute(SQL["page"], {"limit": limit, "before": before})
    return [CalendarRecord(*row) for row in await cursor.fetchall()]


async def get(tx: Tx, name: str) -> CalendarRecord:
    """Return a calendar; raises :class:`NotFound`."""
    row = await (await tx.execute(SQL["get"], {"name": name})).fetchone()
    if row is None:
        raise NotFound(f"there is no calendar {name!r}")
    return CalendarRecord(*row)


async def create(
    tx: Tx, name: str, *, definition: Json, agent_id: UUID, now: datetime
) -> CalendarRecord:
    """Store a new calendar; raises :class:`Conflict` when the name is taken."""
    values = {
        "id": uuid7(),
        "name": name,
        "definition": Jsonb(definition),
        "created_by": agent_id,
        "now": now,
    }
    row = await (await tx.execute(SQL["create"], values)).fetchone()
    if row is None:
        raise Conflict(f"there is a calendar {name!r} already")
    return CalendarRecord(*row)


async def replace(
    tx: Tx, name: str, *, definition: Json, owner: UUID | None, now: datetime
) -> CalendarRecord:
    """Replace what a calendar says; raises :class:`NotFound` for another owner's as well."""
    values = {"name": name, "definition": Jsonb(definition), "owner": owner, "now": now}
    row = await (await tx.execute(SQL["replace"], values)).fetchone()
    if row is None:
        raise NotFound(f"you have no calendar {name!r}")
    return CalendarRecord(*row)


async def delete(tx: Tx, name: str, *, owner: UUID | None) -> None:
    """Remove a calendar; raises :class:`NotFound` for one that is not the owner's as well."""
    row = await (await tx.execute(SQL["delete"], {"name": name, "owner": owner})).fetchone()
    if row is None:
        raise NotFound(f"you have no calendar {name!r}")


async def lock_users(tx: Tx, name: str) -> list[UUID]:
    """Keep the tick away from the tasks that exclude a calendar, and return them."""
    return [row[0] for row in await (await tx.execute(SQL["users"], {"name": name})).fetchall()]
