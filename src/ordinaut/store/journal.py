"""The outbox: every fact, written in the transaction that made it true.

A place (``seq``) is taken before its transaction commits, so places appear out of order, and a
reader that remembers the last one it saw loses what commits late. The relay's cursor is a
snapshot instead: new is what that snapshot did not see and the present one sees. ::

    snapshot   xid 100 and 103 in progress, nothing from 105 on
    new        xid >= 105, or 100, or 103        index look-ups; nobody waits for anybody

When more is new than fits a batch, the present snapshot is kept as ``target`` and the round is
read in the order of ``seq``. Events of one task keep their order: whoever writes the later one
waited for the row lock of the earlier one, so it has the higher ``seq`` and commits later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from ordinaut.model import Event
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import array, encode
from ordinaut.telemetry import logger

SQL = Queries("journal")
log = logger(__name__)
CHANNEL = "ordinaut_event"  # where hint is heard

_SNAPSHOT = r"\d+:\d+:[\d,]*"
_CURSOR = re.compile(rf"(?P<snapshot>{_SNAPSHOT})\|(?P<target>({_SNAPSHOT})?)\|(?P<seq>\d+)")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event with its place in the outbox; ``seq`` is its stable id."""

    seq: int
    at: datetime
    event: Event


@dataclass(frozen=True, slots=True)
class Fresh:
    """An event on its way out, with its data still in text."""

    seq: int
    at: datetime
    topic: str
    task_id: UUID | None
    run_id: UUID | None
    subject: str
    data: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a reader is: all that ``snapshot`` sees, and up to ``seq`` what ``target`` sees."""

    snapshot: str
    target: str | None = None
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.snapshot}|{self.target or ''}|{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Read what ``str`` wrote; None when it is something else."""
        if not (found := _CURSOR.fullmatch(text)):
            return None
        return cls(found["snapshot"], found["target"] or None, int(found["seq"]))


async def emit(tx: Tx, events: Sequence[Event], *, now: datetime | None = None) -> None:
    """Write ``events`` into the outbox, in their order, in the caller's transaction."""
    if not events:
        return
    await tx.execute(
        SQL["emit"],
        {
            "now": now,
            "topics": [e.topic for e in events],
            "task_ids": array([e.task_id for e in events]),
            "run_ids": array([e.run_id for e in events]),
            "subjects": [e.subject for e in events],
            "data": array([encode(e.data) for e in events]),
        },
    )


async def hint(tx: Tx) -> None:
    """Wake the relay, which looks by itself a few times a second; once after a batch."""
    await tx.execute(SQL["hint"])


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


async def lock_cursor(tx: Tx, name: str) -> Cursor | None:
    """Take a reader's place until commit; None when another process has it."""
    row = await (await tx.execute(SQL["lock_cursor"], {"name": name})).fetchone()
    if row is None:
        return None
    *place, is_foreign = row
    cursor = Cursor(*place)
    return await _rebase(tx, name, cursor) if is_foreign else cursor


async def read_fresh(tx: Tx, cursor: Cursor, *, limit: int) -> tuple[list[Fresh], Cursor]:
    """Return the next events behind ``cursor``, and the cursor behind them."""
    if cursor.target is None:
        return await _first_batch(tx, cursor, limit)
    events = await _fresh(tx, "backlog", {**_places(cursor), "limit": limit})
    if len(events) < limit:
        return events, Cursor(cursor.target)
    return events, replace(cursor, seq=events[-1].seq)


async def save_cursor(tx: Tx, name: str, cursor: Cursor) -> bool:
    """Move a reader's cursor; False when this database has never been where it points."""
    found = await tx.execute(SQL["save_cursor"], {"name": name, **_places(cursor)})
    return await found.fetchone() is not None


async def refill_from(tx: Tx, *, keep: int) -> int:
    """Return the place before the newest ``keep`` events."""
    row = await (await tx.execute(SQL["refill_from"], {"keep": keep})).fetchone()
    assert row is not None  # coalesce always answers
    return int(row[0])


async def read_refill(tx: Tx, cursor: Cursor, *, after: int, limit: int) -> list[Fresh]:
    """Return events behind the place ``after`` that ``cursor`` has already passed."""
    return await _fresh(tx, "refill", {**_places(cursor), "after": after, "limit": limit})


def topic_pattern(topic: str) -> str:
    """Return the regular expression, for Python and PostgreSQL alike, of a topic with ``*``."""
    segments = (r"[^.]+" if s == "*" else re.escape(s) for s in topic.split("."))
    return r"\A" + r"\.".join(segments) + r"\Z"


async def _rebase(tx: Tx, name: str, cursor: Cursor) -> Cursor:
    """Give the numbers of this cluster to what was restored from the dump of another one.

    Its transactions are counted from a lower number. Without this, whatever happens now would
    look as if the reader had seen it long ago.
    """
    log.warning("journal.rebased", cursor=str(cursor))
    await tx.execute(SQL["renumber"], _places(cursor))
    row = await (await tx.execute(SQL["rebase"], {"name": name})).fetchone()
    assert row is not None  # its row is locked
    return Cursor(row[0])


async def _first_batch(tx: Tx, cursor: Cursor, limit: int) -> tuple[list[Fresh], Cursor]:
    found = await tx.execute(SQL["fresh"], {"snapshot": cursor.snapshot, "limit": limit})
    rows = await found.fetchall()
    if not rows:
        return [], cursor
    events = [Fresh(*row[1:]) for row in rows]
    seen: str = rows[0][0]
    if len(events) < limit:
        return events, Cursor(seen)
    return events, Cursor(cursor.snapshot, seen, events[-1].seq)


async def _fresh(tx: Tx, name: str, values: dict[str, Any]) -> list[Fresh]:
    return [Fresh(*row) for row in await (await tx.execute(SQL[name], values)).fetchall()]


def _places(cursor: Cursor) -> dict[str, Any]:
    return {"snapshot": cursor.snapshot, "target": cursor.target, "seq": cursor.seq}


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
