"""When tasks fire next: the narrow row beside each task, and the time nobody has decided yet.

``schedule.next_run_at`` says when a task fires next; ``decided_until`` up to where every
occurrence has its run or its verdict. Whoever changes what a task's occurrences are calls
:func:`set_next`; :func:`pause`, :func:`resume` and :func:`snooze` only move these marks, and the
tick does the work. Change the schedule row in the transaction that changes the task: its lock
is what keeps a tick from firing an old definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple
from uuid import UUID

from ordinaut.engine.lanes import lane
from ordinaut.model import (
    NOBODY,
    Catchup,
    Json,
    Lane,
    NewWork,
    Overlap,
    Schedule,
    TaskStatus,
    Trigger,
    uuid7,
)
from ordinaut.store import ledger
from ordinaut.store.database import Queries, Tx
from ordinaut.store.ledger import Skipped
from ordinaut.store.results import array

SQL = Queries("schedules")
CHANNEL = "ordinaut_schedule"  # where hint is heard


class Timed(NamedTuple):
    """What decides when a task fires, and how far that is decided.

    A tuple, as is what the tick makes of it: these are made several times faster than frozen
    dataclasses.
    """

    task_id: UUID
    version: int
    active: bool
    schedule: Schedule
    priority: int
    catchup: Catchup
    catchup_window_seconds: int
    overlap: Overlap
    jitter_seconds: int
    max_runs: int | None
    concurrency_key: str | None
    max_concurrency: int
    rate_limit: str | None
    created_by: UUID
    next_run_at: datetime | None
    decided_until: datetime
    fired: int
    resumed_at: datetime | None
    snoozed_for: datetime | None
    snoozed_to: datetime | None
    event_window: Json = None

    @property
    def lane(self) -> Lane:
        """What the task's runs share with others."""
        return lane(
            self.task_id,
            key=self.concurrency_key,
            most=self.max_concurrency,
            rate=self.rate_limit,
            overlap=self.overlap,
        )

    def run(
        self,
        trigger: Trigger,
        *,
        run_at: datetime,
        scheduled_for: datetime | None = None,
        payload: Json = None,
        priority: int | None = None,
        id: UUID | None = None,
    ) -> NewWork:
        """Return a run of the task as it is now, of its own ``priority`` unless one is given."""
        return NewWork(
            id or uuid7(),
            self.task_id,
            self.version,
            scheduled_for,
            run_at,
            priority or self.priority,
            trigger,
            self.created_by,
            payload,
            self.lane,
        )


class Pause(NamedTuple):
    """A time in which a task was paused; ``catchup`` is what its resuming asked for."""

    began_at: datetime
    ended_at: datetime
    catchup: Catchup | None


class Advance(NamedTuple):
    """Where a schedule stands after a tick; ``snoozed`` when a snooze is still to come.

    ``look_at`` is when the tick shall look although nothing is due before ``next_run_at``.
    """

    task_id: UUID
    next_run_at: datetime | None
    decided_until: datetime
    look_at: datetime | None = None
    last_scheduled_for: datetime | None = None
    fired: int = 0
    snoozed: bool = False


@cache
def tzdata_version() -> str:
    """Return the version of the time zone data that this process computes with."""
    return metadata.version("tzdata")


async def set_next(
    tx: Tx, nexts: Mapping[UUID, datetime | None], *, now: datetime | None = None
) -> None:
    """Store when tasks fire next, for new tasks and for such whose schedule changed.

    ``None`` says that nothing follows. A paused task stays paused.
    """
    await tx.execute(
        SQL["set_next"],
        {
            "task_ids": array(list(nexts)),
            "nexts": array(list(nexts.values())),
            "tzdata": tzdata_version(),
            "now": now,
        },
    )


async def pause(tx: Tx, task_ids: Sequence[UUID], *, now: datetime | None = None) -> set[UUID]:
    """Let nothing of these tasks fire from now on; returns those that were not paused yet."""
    return await _ids(tx, "pause", {"task_ids": list(task_ids), "now": now})


async def resume(
    tx: Tx,
    nexts: Mapping[UUID, datetime | None],
    *,
    catchup: Catchup | None = None,
    now: datetime | None = None,
) -> set[UUID]:
    """End the pauses of tasks; returns those that were paused.

    ``nexts`` holds, for each task, its first occurrence after ``decided_until`` (see
    :func:`load`): in the past when something fell into the pause. Then the next tick gives each
    such occurrence its run or its verdict, by ``catchup`` or else by the task's own setting.
    """
    given = {"task_ids": list(nexts), "nexts": list(nexts.values())}
    return await _ids(tx, "resume", {**given, "catchup": catchup, "now": now})


async def snooze(
    tx: Tx, task_id: UUID, *, occurrence: datetime, to: datetime, following: datetime | None
) -> bool:
    """Move exactly ``occurrence``, which is next, ``to`` another instant; False when paused.

    ``following`` is the occurrence after it, which keeps its own time. A second snooze names
    the same ``occurrence`` and moves it again.
    """
    first = to if following is None else min(to, following)
    values = {"task_id": task_id, "occurrence": occurrence, "to": to, "next": first}
    if not await _ids(tx, "snooze", values):
        return False
    reason = f"snoozed to {to.astimezone(UTC).isoformat()}"
    await ledger.record(tx, [Skipped(task_id, occurrence, "snoozed", reason)])
    return True


async def claim(
    tx: Tx, *, limit: int, now: datetime | None = None
) -> tuple[datetime | None, list[UUID]]:
    """Lock due schedules; returns the instant that counts as now (None when nothing is due)."""
    cursor = await tx.execute(SQL["claim"], {"limit": limit, "now": now}, binary=True)
    rows = await cursor.fetchall()
    return (rows[0][0] if rows else None), [row[1] for row in rows]


async def load(tx: Tx, ids: Sequence[UUID]) -> list[Timed]:
    """Return what decides when these tasks fire."""
    cursor = await tx.execute(SQL["load"], {"ids": array(ids)}, binary=True)
    return [_timed(row) for row in await cursor.fetchall()]


async def pauses(tx: Tx, ids: Sequence[UUID]) -> dict[UUID, list[Pause]]:
    """Return the pauses that fall into the undecided time of tasks, in order."""
    found: dict[UUID, list[Pause]] = {}
    if ids:
        cursor = await tx.execute(SQL["pauses"], {"ids": array(ids)})
        for task_id, began_at, ended_at, catchup in await cursor.fetchall():
            found.setdefault(task_id, []).append(Pause(began_at, ended_at, catchup))
    return found


async def live(tx: Tx, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of the tasks that have a run which has not ended."""
    return await _ids(tx, "live", {"ids": array(ids)}) if ids else set()


async def advance(tx: Tx, moved: Sequence[Advance]) -> None:
    """Store where schedules stand after a tick."""
    await tx.execute(
        SQL["advance"],
        {
            "ids": array([m.task_id for m in moved]),
            "nexts": array([m.next_run_at for m in moved]),
            "looks": array([m.look_at for m in moved]),
            "decided": array([m.decided_until for m in moved]),
            "lasts": array([m.last_scheduled_for for m in moved]),
            "fired": array([m.fired for m in moved]),
            "snoozed": array([m.snoozed for m in moved]),
        },
    )


async def end_tasks(
    tx: Tx, ids: Sequence[UUID], *, status: TaskStatus, now: datetime | None = None
) -> None:
    """Give active tasks a status after which nothing fires."""
    if ids:
        await tx.execute(SQL["end_tasks"], {"ids": array(ids), "status": status, "now": now})


async def next_due(tx: Tx) -> tuple[datetime, datetime | None]:
    """Return the database's time, and the earliest instant at which :func:`claim` finds some."""
    row = await (await tx.execute(SQL["next_due"])).fetchone()
    assert row is not None  # a SELECT of scalars
    return row[0], row[1]


async def stale(tx: Tx, *, after: UUID = NOBODY, limit: int) -> list[UUID]:
    """Lock schedules that were computed with other time zone data than this process has.

    Returns the first of those ``after`` a task, in order.
    """
    values = {"tzdata": tzdata_version(), "after": after, "limit": limit}
    return sorted(await _ids(tx, "stale", values))


async def recomputed(tx: Tx, nexts: Mapping[UUID, datetime | None]) -> None:
    """Store what this process's time zone data makes of schedules."""
    values = {
        "ids": array(list(nexts)),
        "nexts": array(list(nexts.values())),
        "tzdata": tzdata_version(),
    }
    await tx.execute(SQL["recomputed"], values)


async def hint(tx: Tx) -> None:
    """Wake the schedulers; needed only when something fires within the next second."""
    await tx.execute(SQL["hint"])


async def _ids(tx: Tx, name: str, values: dict[str, Any]) -> set[UUID]:
    cursor = await tx.execute(SQL[name], values)
    return {row[0] for row in await cursor.fetchall()}


def _timed(row: tuple[Any, ...]) -> Timed:
    kind, expr, zone, anchor, starts_at, ends_at, gap, fold, exclude, on_excluded = row[3:13]
    schedule = Schedule(
        kind, expr, zone, anchor, starts_at, ends_at, gap, fold, tuple(exclude), on_excluded
    )
    return Timed._make((*row[:3], schedule, *row[13:]))
