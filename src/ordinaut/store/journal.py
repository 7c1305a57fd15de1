"""The outbox: every fact, written in the transaction that made it true."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.model import Event
from ordinaut.store.database import Queries, Tx

SQL = Queries("journal")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event with its place in the outbox; ``seq`` is its stable id."""

    seq: int
    at: datetime
    event: Event


async def emit(tx: Tx, events: Sequence[Event], *, now: datetime | None = None) -> None:
    """Write ``events`` into the outbox, in their order, in the caller's transaction."""
    if not events:
        return
    await tx.execute(
        SQL["emit"],
        {
            "now": now,
            "topics": [e.topic for e in events],
            "task_ids": [e.task_id for e in events],
            "run_ids": [e.run_id for e in events],
            "subjects": [e.subject for e in events],
            "data": [Jsonb(e.data) for e in events],
        },
    )


async def read_events(
    tx: Tx,
    *,
    limit: int,
    before: int | None = None,
    topic: str | None = None,
    subject: str | None = None,
    task_id: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Recorded]:
    """Return the newest events with ``seq < before``; ``*`` in ``topic`` stands for a segment."""
    cursor = await tx.execute(
        SQL["read_events"],
        {
            "before": before,
            "topic": None if topic is None else topic_pattern(topic),
            "subject": subject,
            "task_id": task_id,
            "since": since,
            "until": until,
            "limit": limit,
        },
    )
    return [_recorded(*row) for row in await cursor.fetchall()]


def topic_pattern(topic: str) -> str:
    """Return the regular expression, for Python and PostgreSQL alike, of a topic with ``*``."""
    segments = (r"[^.]+" if s == "*" else re.escape(s) for s in topic.split("."))
    return r"\A" + r"\.".join(segments) + r"\Z"


def _recorded(
    seq: int,
    at: datetime,
    topic: str,
    task_id: UUID | None,
    run_id: UUID | None,
    subject: str,
    data: object,
) -> Recorded:
    return Recorded(seq, at, Event(topic, data, task_id, run_id, subject))
