"""Tasks: what was asked for, with its pipeline, its schedule and its last run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg.types.json import Jsonb

from ordinaut.errors import NotFound, PreconditionFailed
from ordinaut.model import Backoff, Event, Json, RunStatus, Schedule, Task, TaskStatus
from ordinaut.store import audit, journal, probes
from ordinaut.store.audit import Actor
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import array

SQL = Queries("tasks")

NOISE = ("version", "updated_at")  # differ in every change
TOPICS = {
    "update": "task.updated",
    "delete": "task.deleted",
    "cancel": "task.canceled",
    "pause": "task.paused",
    "resume": "task.resumed",
}


@dataclass(frozen=True, slots=True)
class LastRun:
    """The run of a task that ended last."""

    id: UUID
    status: RunStatus
    scheduled_for: datetime | None
    started_at: datetime | None
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task and what became of it so far; ``condition`` is that of a condition task."""

    task: Task
    fired: int = 0
    last_run: LastRun | None = None
    condition: probes.State | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """What the runs of one version of a task have to do, and how."""

    task_id: UUID
    version: int
    payload: Json
    title: str
    created_by: UUID
    max_retries: int
    backoff_strategy: Backoff
    backoff_seconds: float
    timeout_seconds: float | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks are meant; an ``owner`` of ``None`` means everybody's."""

    owner: UUID | None = None
    status: TaskStatus | None = None
    schedule_kind: str | None = None
    labels: Mapping[str, str] | None = None
    text: str | None = None
    ids: Sequence[UUID] | None = None


async def create(tx: Tx, tasks: Sequence[Task], *, actor: Actor, tzdata: str) -> None:
    """Store new tasks, each with its definition, schedule, event and audit entry.

    Their fields are the names in the statement: orjson writes dataclasses by itself.
    """
    await tx.execute(
        SQL["create"],
        {
            "tasks": orjson.dumps(tasks, default=Schedule._asdict).decode(),
            "tzdata": tzdata,
            "actor_id": actor.id,
            "actor": actor.name,
            "request_id": actor.request_id,
            "address": actor.address,
        },
    )


async def count(tx: Tx, owner: UUID, *, limit: int) -> int:
    """Return how many tasks ``owner`` has, counted up to ``limit``."""
    row = await (await tx.execute(SQL["count"], {"owner": owner, "limit": limit})).fetchone()
    return row[0] if row else 0


async def find_duplicate(tx: Tx, task: Task) -> UUID | None:
    """Return the task that makes ``task`` a repetition; holds off others until ``tx`` ends."""
    values = {
        "owner": task.created_by,
        "dedupe_key": task.dedupe_key,
        "window": task.dedupe_window_seconds,
        "now": task.created_at,
    }
    await tx.execute(SQL["lock_dedupe"], values)
    row = await (await tx.execute(SQL["find_duplicate"], values)).fetchone()
    return None if row is None else row[0]


async def get(tx: Tx, task_id: UUID, *, owner: UUID | None = None) -> TaskRecord:
    """Return a task; raises :class:`NotFound` for one that is not the owner's as well."""
    found = await get_many(tx, [task_id], owner=owner)
    if not found:
        raise missing(task_id)
    return found[0]


async def get_many(tx: Tx, ids: Sequence[UUID], *, owner: UUID | None = None) -> list[TaskRecord]:
    """Return the tasks among ``ids`` that exist, newest first."""
    cursor = await tx.execute(SQL["get"], {"ids": list(ids), "owner": owner})
    return await with_conditions(tx, [_record(row) for row in await cursor.fetchall()])


async def with_conditions(tx: Tx, records: list[TaskRecord]) -> list[TaskRecord]:
    """Return the tasks with what is known of the conditions that some of them have."""
    asked = [r.task.id for r in records if r.task.schedule.kind == "condition"]
    if not asked:
        return records
    known = await probes.states(tx, asked)
    return [replace(record, condition=known.get(record.task.id)) for record in records]


async def definitions(
    tx: Tx, wanted: Iterable[tuple[UUID, int]]
) -> dict[tuple[UUID, int], Definition]:
    """Return the definitions of ``(task_id, version)`` that exist."""
    pairs = list(wanted)
    parameters = {
        "task_ids": array([p[0] for p in pairs]),
        "versions": array([p[1] for p in pairs]),
    }
    cursor = await tx.execute(SQL["definitions"], parameters, binary=True)
    rows = await cursor.fetchall()
    return {(row[0], row[1]): Definition(*row) for row in rows}


async def page(
    tx: Tx, wanted: Filter, *, limit: int, before: UUID | None = None
) -> list[TaskRecord]:
    """Return the newest tasks with ``id < before`` that fit."""
    ids = await matching(tx, wanted, limit=limit, before=before)
    return await get_many(tx, ids, owner=wanted.owner) if ids else []


async def matching(tx: Tx, wanted: Filter, *, limit: int, before: UUID | None = None) -> list[UUID]:
    """Return the newest ids below ``before`` that fit."""
    cursor = await tx.execute(
        SQL["page"],
        {
            "owner": wanted.owner,
            "before": before,
            "status": wanted.status,
            "schedule_kind": wanted.schedule_kind,
            "labels": None if wanted.labels is None else Jsonb(dict(wanted.labels)),
            "ids": None if wanted.ids is None else list(wanted.ids),
            "text": None if wanted.text is None else _pattern(wanted.text),
            "limit": limit,
        },
    )
    return [row[0] for row in await cursor.fetchall()]


async def lock(tx: Tx, ids: Sequence[UUID], *, owner: UUID | None = None) -> list[TaskRecord]:
    """Return tasks that are about to change; nobody else changes them until ``tx`` ends."""
    values = {"ids": list(ids), "owner": owner}
    await tx.execute(SQL["lock_schedules"], values)
    await tx.execute(SQL["lock"], values)
    return await get_many(tx, ids, owner=owner)


async def lock_one(
    tx: Tx, task_id: UUID, *, owner: UUID | None = None, version: int | None = None
) -> TaskRecord:
    """Lock a task; raises :class:`PreconditionFailed` when it is not at ``version``."""
    found = await lock(tx, [task_id], owner=owner)
    if not found:
        raise missing(task_id)
    if version not in (None, found[0].task.version):
        raise PreconditionFailed(
            f"task {task_id} is at version {found[0].task.version}, not {version}"
        )
    return found[0]


async def update(tx: Tx, before: Task, *, after: Task, actor: Actor) -> None:
    """Replace a locked task; its schedule row is the caller's to set."""
    values = _columns(after) | {"labels": Jsonb(dict(after.labels)), "now": after.updated_at}
    values["event_window"] = None if after.event_window is None else Jsonb(after.event_window)
    await tx.execute(SQL["update"], values | {"payload": Jsonb(after.payload)})
    await _tell(tx, "update", actor, before, after=flat(after))


async def set_status(
    tx: Tx, before: Task, *, status: TaskStatus, action: str, actor: Actor, now: datetime
) -> None:
    """Give a locked task another status; ``action`` names the change in the audit log."""
    await tx.execute(SQL["set_status"], {"ids": [before.id], "status": status, "now": now})
    await _tell(tx, action, actor, before, after=flat(before) | {"status": status})


async def delete(tx: Tx, before: Task, *, actor: Actor, now: datetime) -> None:
    """Take a locked task out of sight; its runs, events and audit entries stay."""
    await tx.execute(SQL["delete"], {"ids": [before.id], "now": now})
    await tx.execute(SQL["silence"], {"ids": [before.id]})
    await _tell(tx, "delete", actor, before, after=None)


async def silence(tx: Tx, task_id: UUID) -> None:
    """Let a task that is over fire no more."""
    await tx.execute(SQL["silence"], {"ids": [task_id]})


def flat(task: Task) -> dict[str, Any]:
    """Return a task as plain JSON, with the names that its columns have."""
    return {name: _plain(value) for name, value in (_columns(task)).items()}


def missing(task_id: UUID) -> NotFound:
    """The error for a task that does not exist, or not for who asks."""
    return NotFound(f"there is no task {task_id}")


async def _tell(
    tx: Tx, action: str, actor: Actor, before: Task, *, after: dict[str, Json] | None
) -> None:
    # Of a change the log needs what differs, and of a deletion all that is lost.
    was, now = flat(before), after
    if after is not None:
        changed = sorted(n for n, v in after.items() if n not in NOISE and was[n] != v)
        was, now = ({name: side[name] for name in changed} for side in (was, after))
    await audit.record(
        tx,
        actor,
        action=f"task.{action}",
        entity="task",
        entity_id=before.id,
        before=was,
        after=now,
    )
    data = {"title": before.title, "changed": sorted(now or ())}
    await journal.emit(tx, [Event(TOPICS[action], data, before.id)])


def _columns(task: Task) -> dict[str, Any]:
    schedule = task.schedule
    values = {name: getattr(task, name) for name in Task.__slots__ if name != "schedule"}
    return values | {
        "schedule_kind": schedule.kind,
        "schedule_expr": schedule.expr,
        "timezone": schedule.timezone,
        "anchor": schedule.anchor,
        "starts_at": schedule.starts_at,
        "ends_at": schedule.ends_at,
        "dst_gap": schedule.dst_gap,
        "dst_fold": schedule.dst_fold,
        "exclude": list(schedule.exclude),
        "on_excluded": schedule.on_excluded,
    }


def _plain(value: object) -> Json:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


def _pattern(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _record(row: tuple[Any, ...]) -> TaskRecord:
    task_id, version, title, description, status = row[:5]
    kind, expr, timezone, anchor, starts_at, ends_at = row[5:11]
    dst_gap, dst_fold, exclude, on_excluded = row[11:15]
    schedule = Schedule(
        kind, expr, timezone, anchor, starts_at, ends_at, dst_gap, dst_fold,
        tuple(exclude), on_excluded,
    )  # fmt: skip
    # In the order of the columns, which is the order of the fields.
    values: tuple[Any, ...] = (
        task_id, version, title, schedule, *row[15:19], description, status, *row[19:38]
    )  # fmt: skip
    last_run = None if row[39] is None else LastRun(*row[39:44])
    return TaskRecord(Task(*values), row[38], last_run)
