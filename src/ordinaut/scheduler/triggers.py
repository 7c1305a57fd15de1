"""Events start tasks: each event starts each task that listens for it exactly once.

::

    take      lock the place up to which the outbox was read; one scheduler at a time has it
    fresh     what was committed since, under the topics that tasks listen for
    hold      lock the schedules of the tasks it concerns, and load them
    write     due work, verdicts, counts, events; move the place
    commit    all of it, or nothing

A task hears what happened after it was created, its schedule changed or it was resumed, and
nothing while it is paused.

An event of a run that an event started is one step deeper than that one. Deeper than
``MAX_DEPTH`` no task starts, so a circle of tasks that start each other ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID

from ordinaut.engine.schedule import event_topic, jitter
from ordinaut.errors import OrdinautError
from ordinaut.model import Event, Json, NewWork, Verdict, uuid7
from ordinaut.scheduler.waits import is_meant, is_of_tasks, key_of, keys_of, shown
from ordinaut.store import journal, leaders, ledger, queue, schedules, triggers
from ordinaut.store.database import Database, Tx
from ordinaut.store.journal import Cursor
from ordinaut.store.ledger import Skipped
from ordinaut.store.schedules import Advance, Timed
from ordinaut.store.triggers import MAX_DEPTH, Caused, Listener, Place
from ordinaut.telemetry import emit, logger

STALL: Final = timedelta(seconds=10)
PAGE: Final = 200  # events in one transaction, each of which may be large

log = logger(__name__)


class Triggers:
    """Reads the outbox for event tasks; any number may exist, one at a time works."""

    def __init__(self, db: Database) -> None:
        self._db = db

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
            started = await _start(tx, _heard(events, listening), now=place.now)
            await triggers.move_place(tx, behind)
        if started:
            emit("triggers.started", runs=started)
            async with self._db.connection() as tx:
                await queue.hint(tx)
        return behind.target is not None


@dataclass(slots=True)
class Firing:
    """What a batch of events does to one task, in the order of the events."""

    task: Timed
    live: bool
    work: list[NewWork] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    last: datetime | None = None

    def hear(self, caused: Caused, *, now: datetime) -> None:
        """Decide whether an event that fits starts the task."""
        if not _is_in_time(self.task, caused.event.at) or self.is_spent:
            return
        if caused.depth > MAX_DEPTH:
            self._skip(
                caused,
                "canceled",
                f"event {caused.event.seq} ({caused.event.topic}) comes at the end of more than "
                f"{MAX_DEPTH} runs that started each other; do the tasks form a circle?",
            )
        elif self.live and self.task.overlap == "skip":
            self._skip(caused, "skipped_overlap", "an earlier run of the task had not ended")
        else:
            self.work.append(_work(self.task, caused, now=now))
            self.live, self.last = True, caused.event.at

    @property
    def is_spent(self) -> bool:
        """Whether the task has had all the runs that it may have."""
        most = self.task.max_runs
        return most is not None and self.task.fired + len(self.work) >= most

    def _skip(self, caused: Caused, verdict: Verdict, reason: str) -> None:
        self.skipped.append(Skipped(self.task.task_id, caused.event.at, verdict, reason))


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


async def _start(tx: Tx, heard: Mapping[UUID, Sequence[Caused]], *, now: datetime) -> int:
    """Start tasks by what each of them heard; return how many runs there are."""
    if not heard:
        return 0
    tasks = [task for task in await triggers.hold(tx, sorted(heard)) if task.active]
    live = await schedules.live(
        tx, [t.task_id for t in tasks if t.overlap in ("skip", "cancel_running")]
    )
    firings = [Firing(task, task.task_id in live) for task in tasks]
    for firing in firings:
        for caused in heard[firing.task.task_id]:
            firing.hear(caused, now=now)
    await _write(tx, [f for f in firings if f.work or f.skipped], live, now=now)
    return sum(len(firing.work) for firing in firings)


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


async def _write(tx: Tx, firings: Sequence[Firing], live: set[UUID], *, now: datetime) -> None:
    replacing = [f for f in firings if f.work and f.task.overlap == "cancel_running"]
    overtaken = [f.task.task_id for f in replacing if f.task.task_id in live]
    if overtaken:
        await queue.cancel(tx, task_ids=overtaken, reason="a later event started the task", now=now)
    for firing in replacing:
        firing.work = firing.work[-1:]
    await queue.enqueue(tx, [work for f in firings for work in f.work], now=now)
    await ledger.record(tx, [skipped for f in firings for skipped in f.skipped], now=now)
    await schedules.advance(tx, [_advance(f) for f in firings])
    spent = [f.task.task_id for f in firings if f.is_spent]
    await schedules.end_tasks(tx, spent, status="completed", now=now)
    await journal.emit(tx, [event for f in firings for event in _events(f)], now=now)


def _work(task: Timed, caused: Caused, *, now: datetime) -> NewWork:
    run_at = now
    if task.jitter_seconds:
        run_at += jitter(task.task_id, caused.event.at, task.jitter_seconds)
    key, most = task.lane
    payload: Json = {"event": {**shown(caused.event), "depth": caused.depth}}
    return NewWork(
        uuid7(),
        task.task_id,
        task.version,
        None,
        run_at,
        task.priority,
        "event",
        payload,
        key,
        most,
    )


def _is_in_time(task: Timed, at: datetime) -> bool:
    """Tell whether a task listened at that instant."""
    schedule = task.schedule
    begins = [task.decided_until, task.resumed_at, schedule.starts_at]
    if any(begin is not None and at < begin for begin in begins):
        return False
    return schedule.ends_at is None or at <= schedule.ends_at


def _advance(firing: Firing) -> Advance:
    task = firing.task
    return Advance(
        task.task_id,
        None,
        task.decided_until,
        last_scheduled_for=firing.last,
        fired=len(firing.work),
    )


def _events(firing: Firing) -> list[Event]:
    task_id = firing.task.task_id
    events = []
    if firing.skipped:
        ats = sorted(s.scheduled_for for s in firing.skipped)
        data = {
            "verdicts": Counter(s.verdict for s in firing.skipped),
            "first": ats[0].isoformat(),
            "last": ats[-1].isoformat(),
            "reason": firing.skipped[-1].reason,
            "trigger": "event",
        }
        events.append(Event("task.skipped", data, task_id))
    if firing.is_spent:
        events.append(Event("task.completed", {"status": "completed"}, task_id))
    return events
