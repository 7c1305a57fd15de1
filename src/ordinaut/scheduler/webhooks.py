"""The outbox for webhooks: each event becomes one delivery for each webhook that hears of it.

It is read as for event tasks (see ``scheduler.triggers``): what is new between two snapshots,
from the place of this reader on, and the deliveries are committed together with the new place.
So a process may die anywhere, and no event is lost or delivered under two ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import orjson

from ordinaut.model import Json
from ordinaut.scheduler.spine import envelope
from ordinaut.scheduler.waits import is_meant, is_of_tasks, key_of, keys_of
from ordinaut.store import deliveries, leaders, triggers
from ordinaut.store.database import Database, Tx
from ordinaut.store.deliveries import CURSOR, Listener, NewDelivery
from ordinaut.store.journal import Cursor, Fresh
from ordinaut.store.triggers import Place
from ordinaut.store.waits import Heard
from ordinaut.telemetry import emit, logger

STALL: Final = timedelta(seconds=10)
PAGE: Final = 200  # events in one transaction, each of which may be large

log = logger(__name__)


class Webhooks:
    """Reads the outbox for webhooks; any number may exist, one at a time works.

    ``wake`` is called when there is something to send.
    """

    def __init__(self, db: Database, *, wake: Callable[[], None] = lambda: None) -> None:
        self._db = db
        self._wake = wake

    async def run_once(self) -> bool:
        """Do one round; True when there may be more to do at once."""
        async with self._db.connection() as tx:
            if not await triggers.pending(tx, CURSOR):
                return False
        async with self._db.transaction() as tx:
            await leaders.guard(tx, stall=STALL)
            place = await triggers.take_place(tx, CURSOR)
            if place is None:
                return False
            new, behind = await _read(tx, place)
            added = await deliveries.add(tx, new)
            await triggers.move_place(tx, behind, CURSOR)
        if added:
            emit("webhooks.queued", deliveries=len(added))
            self._wake()
        return behind.target is not None


def hears(listener: Listener, event: Heard) -> bool:
    """Tell whether a webhook listens for an event, and its owner may hear it."""
    if event.at < listener.listens_from:
        return False
    if is_of_tasks(event.topic) and not (listener.sees_all or event.owner == listener.owner):
        return False
    try:
        return any(is_meant(event, topic, listener.filter) for topic in listener.topics)
    except Exception:
        # Whatever a filter does to the engine, the other webhooks must hear the event.
        log.exception("webhooks.broken", webhook_id=str(listener.id))
        return False


def body_of(event: Heard) -> str:
    """Return an event as CloudEvents 1.0 in JSON (structured mode)."""
    data = orjson.dumps(event.data).decode()
    fields: dict[str, Json] = dict(
        envelope(
            Fresh(
                event.seq, event.at, event.topic, event.task_id, event.run_id, event.subject, data
            )
        )
    )
    fields |= {"datacontenttype": "application/json", "data": event.data}
    return orjson.dumps(fields).decode()


async def _read(tx: Tx, place: Place) -> tuple[list[NewDelivery], Cursor]:
    """Return the next deliveries, and the place behind their events."""
    if place.since is None:
        log.warning("webhooks.restarted", reason="the database comes from another cluster")
        return [], Cursor(place.latest)
    by_key: dict[str, list[Listener]] = defaultdict(list)
    for listener in await deliveries.listeners(tx):
        for key in {key_of(topic) for topic in listener.topics}:
            by_key[key].append(listener)
    if not by_key:
        return [], Cursor(place.until)
    events = await deliveries.fresh(tx, by_key, place=place, limit=PAGE)
    new = [delivery for event in events for delivery in _of(event, by_key)]
    if len(events) < PAGE:
        return new, Cursor(place.until)
    return new, Cursor(place.since, place.until, events[-1].seq)


def _of(event: Heard, by_key: dict[str, list[Listener]]) -> Sequence[NewDelivery]:
    """Return the deliveries of one event; a webhook gets it once, by however many topics."""
    candidates = {one.id: one for key in keys_of(event.topic) for one in by_key.get(key, ())}
    heard_by = [one for one in candidates.values() if hears(one, event)]
    if not heard_by:
        return ()
    body = body_of(event)
    return [NewDelivery(one.id, event.topic, body, event.seq) for one in heard_by]
