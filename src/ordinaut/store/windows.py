"""Events that are held until they start one run together.

Whoever reads or writes the windows of a task holds its schedule row: so an event is in one
window, and a window ends once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

import orjson

from ordinaut.model import Json, TaskStatus
from ordinaut.store.database import Queries, Tx

SQL = Queries("windows")
MAX_OPEN = 1_000  # windows of one task, each with another key

EndedBy: TypeAlias = Literal["time", "full", "room", "change"]


@dataclass(slots=True)
class Window:
    """What a task heard together under one key; ``last`` is the last event.

    ``held`` is how many others are kept, in ``bytes`` of JSON with it; ``count`` is of all.
    """

    id: UUID
    task_id: UUID
    key: str
    opened_at: datetime
    last_at: datetime
    closes_at: datetime
    ended_by: EndedBy | None
    count: int
    held: int
    bytes: int
    depth: int
    last: Json

    @property
    def dropped(self) -> int:
        """How many events were counted and not kept."""
        return self.count - self.held - 1


@dataclass(frozen=True, slots=True)
class Kept:
    """An event of a window before its last one."""

    window_id: UUID
    place: int
    event: Json


@dataclass(frozen=True, slots=True)
class Over:
    """A window that is over, with its events before the last, and the status of its task."""

    window: Window
    now: datetime
    status: TaskStatus
    events: list[Json]


async def open_windows(tx: Tx, places: Collection[tuple[UUID, str]]) -> list[Window]:
    """Return the open windows of these tasks and keys."""
    values = {
        "task_ids": [task_id for task_id, _ in places],
        "keys": [key for _, key in places],
    }
    return [Window(*row) for row in await (await tx.execute(SQL["open"], values)).fetchall()]


async def save(tx: Tx, windows: Sequence[Window], kept: Sequence[Kept]) -> None:
    """Store windows, each behind the one that it follows, and events of theirs."""
    await tx.execute(SQL["save"], {"windows": orjson.dumps(windows).decode()})
    if kept:
        await tx.execute(SQL["keep"], {"events": orjson.dumps(kept).decode()})


async def make_room(tx: Tx, task_ids: Collection[UUID], *, now: datetime | None = None) -> None:
    """End the windows of tasks that have more than ``MAX_OPEN``."""
    values = {"task_ids": list(task_ids), "most": MAX_OPEN, "now": now}
    await tx.execute(SQL["make_room"], values)


async def seal(tx: Tx, task_id: UUID, *, now: datetime | None = None) -> None:
    """End the open windows of a task that changed; the next tick decides on them."""
    await tx.execute(SQL["seal"], {"task_ids": [task_id], "now": now})


async def next_close(tx: Tx) -> datetime | None:
    """Return the earliest instant at which a window is over."""
    row = await (await tx.execute(SQL["next_close"])).fetchone()
    return row[0] if row else None


async def is_due(tx: Tx, *, now: datetime | None = None) -> bool:
    """Tell whether a window is over."""
    return await (await tx.execute(SQL["is_due"], {"now": now})).fetchone() == (True,)


async def claim(tx: Tx, *, limit: int, now: datetime | None = None) -> list[UUID]:
    """Lock the schedules of tasks of which a window is over, and return these tasks."""
    found = await tx.execute(SQL["claim"], {"limit": limit, "now": now})
    return [task_id for (task_id,) in await found.fetchall()]


async def over(
    tx: Tx, task_ids: Sequence[UUID], *, limit: int, now: datetime | None = None
) -> list[Over]:
    """Return windows of claimed tasks that are over, the longest first."""
    values: dict[str, Any] = {"task_ids": list(task_ids), "limit": limit, "now": now}
    found = await (await tx.execute(SQL["over"], values)).fetchall()
    return [Over(Window(*row[:12]), *row[12:]) for row in found]


async def drop(tx: Tx, ids: Sequence[UUID]) -> None:
    """Forget windows with their events."""
    await tx.execute(SQL["drop"], {"ids": list(ids)})
