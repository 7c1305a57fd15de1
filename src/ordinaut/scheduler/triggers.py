"""Events start tasks: each event starts each task that listens for it exactly once.

::

    take      lock the place up to which the outbox was read; one scheduler at a time has it
    fresh     what was committed since, under the topics that tasks listen for
    hold      lock the schedules of the tasks it concerns, and load them
    write     due work, verdicts, counts, events, what windows hold; move the place
    commit    all of it, or nothing

A task hears what happened after it was created, its schedule changed or it was resumed, and
nothing while it is paused.

An event of a run that an event started is one step deeper than that one. Deeper than
``MAX_DEPTH`` no task starts, so a circle of tasks that start each other ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID

from ordinaut.engine.schedule import event_topic
from ordinaut.errors import OrdinautError
from ordinaut.scheduler import firing, windows
from ordinaut.scheduler.firing import Firing
from ordinaut.scheduler.waits import is_meant, is_of_tasks, key_of, keys_of, shown
from ordinaut.store import leaders, queue, triggers
from ordinaut.store.database import Database, Tx
from ordinaut.store.journal import Cursor
from ordinaut.store.schedules import Timed
from ordinaut.store.triggers import Caused, Listener, Place
from ordinaut.telemetry import emit, logger

STALL: Final = timedelta(seconds=10)
PAGE: Final = 200  # events in one transaction, each of which may be large

log = logger(__name__)


class Triggers:
    """Reads the outbox for event tasks; any number may exist, one at a time works."""

    def __init__(self, db: Database, *, held: Callable[[], None] = lambda: None) -> None:
        """``held`` is called when windows are open whose end the tick must look at."""
        self._db = db
        self._held = held

    async def run_once(self) -> bool:
        """Do one round; True when there may be more to do at once."""
        async with self._db.connection() as tx:
            if not await triggers.pending(tx):
                return False
        async with self._db.transaction() as tx:
            await leaders.guard(tx, stall=STALL)
            place = await triggers.take_place(tx)
            if place is None:
                return False
            events, behind, listening = await _read(tx, place)
            heard = await _start(tx, _heard(events, listening), now=place.now)
            await triggers.move_place(tx, behind)
            if heard.started:
                await queue.hint(tx)
        if heard.started:
            emit("triggers.started", runs=heard.started)
        if heard.held:
            self._held()
        return behind.target is not None


@dataclass(frozen=True, slots=True)
class Heard:
    """What a round did: how many runs there are, and how many events were held."""

    started: int = 0
    held: int = 0


def fits(listener: Listener, caused: Caused) -> bool:
    """Tell whether an event is one that a task listens for, and that its owner may hear."""
    event = caused.event
    if event.topic == "task.skipped" and event.data.get("trigger") == "event":
        return False  # it would start what was just skipped
    if is_of_tasks(event.topic) and (
        event.task_id == listener.task_id
        or not (listener.sees_all or event.owner == listener.owner)
    ):
        return False
    try:
        topic, condition = _parts(listener.expr)
        return is_meant(event, topic, condition)
    except Exception:
        # Whatever a filter does to the engine, the other tasks must hear the event.
        log.exception("triggers.broken", task_id=str(listener.task_id))
        return False


@lru_cache(maxsize=4_096)
def _parts(expr: str) -> tuple[str, str | None]:
    return event_topic(expr)


async def _read(tx: Tx, place: Place) -> tuple[list[Caused], Cursor, list[Listener]]:
    """Return the next events that tasks listen for, the place behind them, and those tasks."""
    if place.since is None:
        log.warning("triggers.restarted", reason="the database comes from another cluster")
        return [], Cursor(place.latest), []
    listening = await triggers.listeners(tx)
    keys = {key for one in listening if (key := _key(one)) is not None}
    if not keys:
        return [], Cursor(place.until), []
    events = await triggers.fresh(
        tx, keys, since=place.since, until=place.until, after=place.seq, limit=PAGE
    )
    if len(events) < PAGE:
        return events, Cursor(place.until), listening
    return events, Cursor(place.since, place.until, events[-1].event.seq), listening


def _key(listener: Listener) -> str | None:
    try:
        return key_of(_parts(listener.expr)[0])
    except OrdinautError:
        return None  # it was stored by a version that understood more


async def _start(tx: Tx, heard: Mapping[UUID, Sequence[Caused]], *, now: datetime) -> Heard:
    """Start tasks by what each of them heard, or hold it for later."""
    if not heard:
        return Heard()
    tasks = [task for task in await triggers.hold(tx, sorted(heard)) if task.active]
    live = await firing.live(tx, tasks)
    firings = [Firing(task, task.task_id in live) for task in tasks]
    kept: list[tuple[Timed, Sequence[Caused]]] = []
    for one in firings:
        said = [caused for caused in heard[one.task.task_id] if one.admits(caused)]
        if one.task.event_window is not None:
            kept.append((one.task, said))
            continue
        for caused in said:
            event = {**shown(caused.event), "depth": caused.depth}
            one.start({"event": event}, at=caused.event.at, now=now)
    await firing.write(tx, firings, live, now=now)
    held = await windows.hold(tx, kept, now=now)
    return Heard(sum(len(one.work) for one in firings), held)


def _heard(events: Sequence[Caused], listening: Sequence[Listener]) -> dict[UUID, list[Caused]]:
    """Return the events that each task hears."""
    by_key: dict[str | None, list[Listener]] = defaultdict(list)
    for listener in listening:
        by_key[_key(listener)].append(listener)
    heard: dict[UUID, list[Caused]] = defaultdict(list)
    for caused in events:
        for key in keys_of(caused.event.topic):
            for listener in by_key.get(key, ()):
                if fits(listener, caused):
                    heard[listener.task_id].append(caused)
    return heard
