"""Events as people and agents publish and read them; the relay has its own way (journal)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.model import Event, Json
from ordinaut.store import journal
from ordinaut.store.database import Queries, Tx

SQL = Queries("events")

# Facts of the core and of extensions: nobody else may state them, or read them of others.
RESERVED: Final = ("agent", "ext", "run", "step", "system", "task", "webhook", "worker")
END: Final = ""  # where a topic ends in the tree of listeners; no segment is empty


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


async def publish(tx: Tx, given: Sequence[Event]) -> list[Published]:
    """Write events that belong to no task into the outbox, and return them in their order."""
    values = {
        "topics": [event.topic for event in given],
        "subjects": [event.subject for event in given],
        "data": [Jsonb(event.data) for event in given],
    }
    cursor = await tx.execute(SQL["publish"], values)
    return [Published(*row) for row in await cursor.fetchall()]


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


class Listeners:
    """Which tasks and webhooks listen, by the segments of the topics that they name."""

    def __init__(self, rows: Iterable[tuple[str, int, Sequence[UUID]]]) -> None:
        self._tree: dict[str, Any] = {}
        for topic, tasks, webhooks in rows:
            node = self._tree
            for segment in topic.split("."):
                node = node.setdefault(segment, {})
            node.setdefault(END, []).append((tasks, webhooks))

    def of(self, topic: str) -> tuple[int, int]:
        """Return how many tasks and webhooks listen for ``topic``; filters are not asked."""
        nodes = [self._tree]
        for segment in topic.split("."):
            nodes = [node[name] for node in nodes for name in (segment, "*") if name in node]
        found = [pair for node in nodes for pair in node.get(END, ())]
        return sum(tasks for tasks, _ in found), len({one for _, ids in found for one in ids})


async def listeners(tx: Tx, *, tasks_of: UUID | None, webhooks_of: UUID | None) -> Listeners:
    """Return the event tasks and webhooks of an agent that are active; ``None`` means of all."""
    values = {"tasks_of": tasks_of, "webhooks_of": webhooks_of}
    return Listeners(await (await tx.execute(SQL["listeners"], values)).fetchall())


async def owned(tx: Tx, task_id: UUID, *, owner: UUID) -> bool:
    """Tell whether a task belongs to ``owner``."""
    cursor = await tx.execute(SQL["owned"], {"task_id": task_id, "owner": owner})
    return await cursor.fetchone() == (True,)
