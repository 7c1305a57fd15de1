"""The relay: what the outbox holds goes to Redis Streams, at least once and in order.

::

    PostgreSQL                                    Redis
    event, event_cursor ──read_fresh──► Relay ──► XADD … XADD, SET marker     (one script)
                        ◄─save_cursor──       ◄── marker

The marker is the cursor, written beside the entries that it counts. So Redis itself says what
it has, and the relay compares that with PostgreSQL's cursor before it appends:

* equal: append the next batch;
* another place: PostgreSQL did not hear of the last append, or Redis came back without its
  newest entries (a crash, a failover). Go on from the marker;
* none: Redis was flushed or is new. Append the newest events again, then go on.

Appending is a compare-and-set on the marker, so neither a flush in between nor an old relay
that wakes up late can slip through. An entry may come twice; its id is the same both times.
"""

from __future__ import annotations

import re
from datetime import UTC, timedelta
from uuid import UUID

from ordinaut.bus import MAX_LENGTH, Bus, Entry, streams_of
from ordinaut.clock import Clock
from ordinaut.store import journal, leaders
from ordinaut.store.database import Database, Tx
from ordinaut.store.journal import Cursor, Fresh
from ordinaut.telemetry import emit, logger

CURSOR = "relay"
SOURCE = "/ordinaut"  # of the CloudEvents envelope
BATCH = 1_000  # events; Redis answers nobody else while it takes them
STALL = timedelta(seconds=20)  # longer than the transport waits for Redis
CHECK_EVERY = 1.0  # seconds between looks at an idle Redis

_REFILL = re.compile(r"refill:(\d+)")

log = logger(__name__)


class Relay:
    """Moves events from one database to one Redis; any number may exist, one at a time works."""

    def __init__(self, db: Database, bus: Bus, clock: Clock, *, batch: int = BATCH) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._batch = batch
        self._checked = -CHECK_EVERY

    async def run_once(self) -> bool:
        """Relay one batch; True when there may be more to do at once.

        Raises :class:`~ordinaut.errors.Unavailable` when Redis is away: nothing is lost.
        """
        async with self._db.transaction() as tx:
            await leaders.guard(tx, stall=STALL)
            cursor = await journal.lock_cursor(tx, CURSOR)
            if cursor is None:
                return False
            events, behind = await journal.read_fresh(tx, cursor, limit=self._batch)
            if not events and behind == cursor and not self._due_for_a_look():
                return False
            marker = await self._bus.marker()
            self._checked = self._clock.monotonic()
            if marker != str(cursor):
                return await self._follow(tx, marker, cursor)
            return behind != cursor and await self._append(tx, events, cursor, behind)

    def _due_for_a_look(self) -> bool:
        return self._clock.monotonic() - self._checked >= CHECK_EVERY

    async def _append(self, tx: Tx, events: list[Fresh], cursor: Cursor, behind: Cursor) -> bool:
        entries = [entry for event in events for entry in entries_of(event)]
        if await self._bus.append(entries, expected=str(cursor), marker=str(behind)):
            await journal.save_cursor(tx, CURSOR, behind)
            emit("relay.relayed", events=len(events))
        return True

    async def _follow(self, tx: Tx, marker: str | None, cursor: Cursor) -> bool:
        place = Cursor.parse(marker or "")
        if place is not None and await journal.save_cursor(tx, CURSOR, place):
            log.warning("relay.resumed", at=marker, instead_of=str(cursor))
            return True
        return await self._refill(tx, marker, cursor)

    async def _refill(self, tx: Tx, marker: str | None, cursor: Cursor) -> bool:
        begun = _REFILL.fullmatch(marker or "")
        after = int(begun[1]) if begun else await journal.refill_from(tx, keep=MAX_LENGTH)
        events = await journal.read_refill(tx, cursor, after=after, limit=self._batch)
        if events and not begun:
            log.warning("relay.refill", marker=marker, after=after)
        done = len(events) < self._batch
        await self._bus.append(
            [entry for event in events for entry in entries_of(event)],
            expected=marker,
            marker=str(cursor) if done else f"refill:{events[-1].seq}",
        )
        return True


def envelope(event: Fresh) -> dict[str, str]:
    """Return an event as CloudEvents 1.0, its data in JSON text."""
    fields = {
        "specversion": "1.0",
        "id": str(event.seq),
        "source": SOURCE,
        "type": event.topic,
        "subject": event.subject or _id(event.run_id or event.task_id),
        "time": event.at.astimezone(UTC).isoformat(),
        "taskid": _id(event.task_id),
        "runid": _id(event.run_id),
        "data": event.data,
    }
    return {name: value for name, value in fields.items() if value}


def entries_of(event: Fresh) -> list[Entry]:
    """Return an event for the stream of all and for its extension's own."""
    fields = envelope(event)
    return [Entry(stream, fields) for stream in streams_of(event.topic)]


def _id(value: UUID | None) -> str:
    return "" if value is None else str(value)
