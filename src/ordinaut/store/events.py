"""Events as people and agents publish and read them; the relay has its own way (journal)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.model import Json
from ordinaut.store import journal
from ordinaut.store.database import Queries, Tx

SQL = Queries("events")

# Facts of the core and of extensions: nobody else may state them, or read them of others.
RESERVED: Final = ("agent", "ext", "run", "step", "system", "task", "webhook", "worker")


@dataclass(frozen=True, slots=True)
class Published:
    """An event with its place in the outbox; ``seq`` is its stable id."""

    seq: int
    at: datetime
    topic: str
    task_id: UUID | None
    run_id: UUID | None
    subject: str
    data: Json


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events; an ``owner`` of ``None`` sees everything, ``*`` in topic is a segment."""

    owner: UUID | None = None
    topic: str | None = None
    subject: str | None = None
    task_id: UUID | None = None
    run_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


async def publish(tx: Tx, *, topic: str, subject: str, data: Json) -> Published:
    """Write an event into the outbox."""
    values = {"topic": topic, "subject": subject, "data": Jsonb(data)}
    row = await (await tx.execute(SQL["publish"], values)).fetchone()
    assert row is not None  # INSERT … RETURNING
    return Published(*row)


async def page(tx: Tx, wanted: Filter, *, limit: int, before: int | None = None) -> list[Published]:
    """Return the newest events with ``seq < before`` that fit."""
    cursor = await tx.execute(
        SQL["page"],
        {
            "owner": wanted.owner,
            "reserved": list(RESERVED),
            "topic": None if wanted.topic is None else journal.topic_pattern(wanted.topic),
            "subject": wanted.subject,
            "task_id": wanted.task_id,
            "run_id": wanted.run_id,
            "since": wanted.since,
            "until": wanted.until,
            "before": before,
            "limit": limit,
        },
    )
    return [Published(*row) for row in await cursor.fetchall()]


async def topics(
    tx: Tx, *, since: datetime, owner: UUID | None = None
) -> list[tuple[str, int, datetime]]:
    """Return topics with the number of their events and the time of the last one."""
    values = {"since": since, "owner": owner, "reserved": list(RESERVED)}
    cursor = await tx.execute(SQL["topics"], values)
    return [(topic, count, last) for topic, count, last in await cursor.fetchall()]


async def owned(tx: Tx, task_id: UUID, *, owner: UUID) -> bool:
    """Tell whether a task belongs to ``owner``."""
    cursor = await tx.execute(SQL["owned"], {"task_id": task_id, "owner": owner})
    return await cursor.fetchone() == (True,)
