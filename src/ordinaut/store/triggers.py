"""The tasks that events start, and the events that nobody has shown them yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ordinaut.store import journal, schedules
from ordinaut.store.database import Queries, Tx
from ordinaut.store.journal import Cursor
from ordinaut.store.results import array
from ordinaut.store.schedules import Timed
from ordinaut.store.waits import Heard

SQL = Queries("triggers")
CURSOR = "triggers"
MAX_DEPTH = 16  # runs in a row, each started by an event or a call of the one before


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the outbox: what ``until`` sees, ``since`` did not, and lies behind ``seq``.

    ``since`` is None when nothing is known of it; ``latest`` is as far as the outbox goes.
    """

    now: datetime
    since: str | None
    until: str
    seq: int
    latest: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A task that events start; ``sees_all`` is about its owner."""

    task_id: UUID
    expr: str
    owner: UUID
    sees_all: bool


@dataclass(frozen=True, slots=True)
class Caused:
    """An event, and how many runs led to it, each started by an event of the one before."""

    event: Heard
    depth: int


async def pending(tx: Tx, reader: str = CURSOR) -> bool:
    """Tell whether anything has happened since a reader last read the outbox."""
    return await (await tx.execute(SQL["pending"], {"reader": reader})).fetchone() == (True,)


async def take_place(tx: Tx, reader: str = CURSOR) -> Place | None:
    """Take the place up to which the outbox was read, until commit; None when another has it."""
    row = await (await tx.execute(SQL["take"], {"reader": reader})).fetchone()
    return Place(*row) if row else None


async def move_place(tx: Tx, cursor: Cursor, reader: str = CURSOR) -> None:
    """Say that everything before ``cursor`` was read."""
    await journal.save_cursor(tx, reader, cursor)


async def listeners(tx: Tx) -> list[Listener]:
    """Return the active tasks that events start."""
    return [Listener(*row) for row in await (await tx.execute(SQL["listeners"])).fetchall()]


async def fresh(
    tx: Tx, keys: Collection[str], *, since: str, until: str, after: int, limit: int
) -> list[Caused]:
    """Return events under ``keys`` between two snapshots, behind the one with seq ``after``."""
    values = {"snapshot": since, "target": until, "after": after, "limit": limit}
    found = await tx.execute(SQL["fresh"], {**values, "keys": list(keys)})
    return [Caused(Heard(*event), depth) for *event, depth in await found.fetchall()]


async def depth(tx: Tx, run_id: UUID) -> int:
    """Return how many runs, each started by the one before, led to a run that is under way."""
    row = await (await tx.execute(SQL["depth"], {"run_id": run_id})).fetchone()
    return row[0] if row else 0


async def hold(tx: Tx, task_ids: Sequence[UUID]) -> list[Timed]:
    """Return what decides when tasks fire, and keep it so until commit."""
    await tx.execute(SQL["hold"], {"ids": array(task_ids)})
    return await schedules.load(tx, task_ids)
