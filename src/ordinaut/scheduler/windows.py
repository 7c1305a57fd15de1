"""Events are held in windows, and each window starts its task once.

::

    an event comes    it joins the open window of its task and key, or opens one   (hold)
    the window ends   its time is over, it is full, there are too many, the task changed
    the tick          makes a run of it, or gives a verdict, and forgets it        (close)

An event is held in the transaction that moves the place up to which the outbox was read, and a
window is forgotten in the one that enqueues its run: so each event is in exactly one of them,
whoever dies when. The lock of the task's schedule row keeps both apart. Time is the events' own
while they come, so that windows are the same when a scheduler reads late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import orjson

from ordinaut.engine.windows import MAX_BYTES, MAX_EVENTS, EventWindow, parse_window
from ordinaut.model import Json, uuid7
from ordinaut.scheduler import firing
from ordinaut.scheduler.firing import Firing
from ordinaut.scheduler.waits import shown
from ordinaut.store import leaders, schedules
from ordinaut.store import windows as store
from ordinaut.store.database import Database, Tx
from ordinaut.store.schedules import Timed
from ordinaut.store.triggers import Caused
from ordinaut.store.windows import EndedBy, Kept, Over, Window
from ordinaut.telemetry import emit

STALL: Final = timedelta(seconds=5)
CLOSED_AT_ONCE: Final = 100  # windows in one transaction, each of which may be large


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of windows that were over; ``more`` when there may be others."""

    runs: int = 0
    skipped: int = 0
    more: bool = False


@dataclass(slots=True)
class _Shelf:
    """The open windows of the tasks of one round, and what is new of them."""

    open: dict[tuple[UUID, str], Window]
    touched: dict[UUID, Window] = field(default_factory=dict)  # in the order of their opening
    kept: list[Kept] = field(default_factory=list)

    def add(self, task_id: UUID, caused: Caused, *, key: str, form: EventWindow) -> None:
        """Put an event into the open window, or into a new one."""
        event, at = shown(caused.event), caused.event.at
        size = len(orjson.dumps(event))
        window = self.open.get((task_id, key))
        if window is not None and (reason := _ending(window, form, at=at, size=size)):
            self._end(window, reason, at=at)
            window = None
        if window is None:
            closes_at = form.closes_at(at, at)
            window = Window(
                uuid7(), task_id, key, at, at, closes_at, None, 1, 0, size, caused.depth, event
            )
            self.open[task_id, key] = window
        else:
            self._join(window, event, at=at, size=size, form=form)
            window.depth = max(window.depth, caused.depth)
        self.touched.setdefault(window.id, window)
        if not form.overflows and window.count >= form.max_events:
            self._end(window, "full", at=at)
            del self.open[task_id, key]

    def _join(
        self, window: Window, event: Json, *, at: datetime, size: int, form: EventWindow
    ) -> None:
        if window.held + 1 < MAX_EVENTS and window.bytes + size <= MAX_BYTES:
            self.kept.append(Kept(window.id, window.held, window.last))
            window.held += 1
            window.bytes += size
        window.count += 1
        window.last, window.last_at = event, max(at, window.last_at)
        window.closes_at = form.closes_at(window.opened_at, window.last_at)

    def _end(self, window: Window, reason: EndedBy, *, at: datetime) -> None:
        window.ended_by = reason
        window.closes_at = min(window.closes_at, at)
        self.touched.setdefault(window.id, window)


def _ending(window: Window, form: EventWindow, *, at: datetime, size: int) -> EndedBy | None:
    """Tell why a window does not take an event, if it does not."""
    if at >= window.closes_at:
        return "time"
    if not form.overflows and window.bytes + size > MAX_BYTES:
        return "full"
    return None


async def hold(tx: Tx, heard: Sequence[tuple[Timed, Sequence[Caused]]], *, now: datetime) -> int:
    """Hold what tasks heard; the caller has their schedules. Return how many events there are."""
    placed: list[tuple[UUID, str, EventWindow, Caused]] = []
    for task, said in heard:
        form = parse_window(task.event_window)
        for caused in said:
            key = form.key(shown(caused.event), at=caused.event.at)
            placed.append((task.task_id, key, form, caused))
    if not placed:
        return 0
    found = await store.open_windows(tx, {(task_id, key) for task_id, key, *_ in placed})
    shelf = _Shelf({(window.task_id, window.key): window for window in found})
    for task_id, key, form, caused in placed:
        shelf.add(task_id, caused, key=key, form=form)
    await store.save(tx, list(shelf.touched.values()), shelf.kept)
    await store.make_room(tx, {task_id for task_id, *_ in placed}, now=now)
    return len(placed)


async def close(
    db: Database, *, limit: int = CLOSED_AT_ONCE, now: datetime | None = None
) -> Closed:
    """Start tasks by their windows that are over; ``now`` replaces the database's clock."""
    async with db.connection() as tx:
        if not await store.is_due(tx, now=now):
            return Closed()
    async with db.transaction() as tx:
        await leaders.guard(tx, stall=STALL)
        task_ids = await store.claim(tx, limit=limit, now=now)
        found = await store.over(tx, task_ids, limit=limit, now=now) if task_ids else []
        firings = await _fire(tx, found)
        await store.drop(tx, [one.window.id for one in found])
    runs = sum(len(one.work) for one in firings)
    skipped = sum(len(one.skipped) for one in firings)
    if found:
        emit("windows.closed", windows=len(found), runs=runs, skipped=skipped)
    return Closed(runs, skipped, len(found) == limit)


async def _fire(tx: Tx, found: Sequence[Over]) -> list[Firing]:
    if not found:
        return []
    now = found[0].now
    tasks = await schedules.load(tx, sorted({one.window.task_id for one in found}))
    live = await firing.live(tx, tasks)
    firings = {task.task_id: Firing(task, task.task_id in live) for task in tasks}
    for one in found:
        _decide(firings[one.window.task_id], one)
    await firing.write(tx, list(firings.values()), live, now=now)
    return list(firings.values())


def _decide(of: Firing, over: Over) -> None:
    """Start a task by a window that is over, or say why not."""
    window, task = over.window, of.task
    events = f"{window.count} event{'s' * (window.count != 1)}"
    if over.status == "paused":
        reason = f"the task was paused when its window of {events} ended"
        of.skip(window.last_at, "skipped_paused", reason)
    elif not task.active or task.schedule.kind != "event":
        what = "listens for no events any more" if task.active else "is over"
        of.skip(window.last_at, "canceled", f"the task {what}, and a window of {events} was open")
    elif of.is_spent:
        reason = f"the task has had its {task.max_runs} runs, and a window of {events} was open"
        of.skip(window.last_at, "canceled", reason)
    else:
        of.start(payload(over), at=window.last_at, now=over.now)


def payload(over: Over) -> dict[str, Json]:
    """Return what a run is given of its window: the last event, and all that were kept."""
    window = over.window
    about = {
        "key": window.key,
        "opened_at": window.opened_at.astimezone(UTC).isoformat(),
        "ended_by": window.ended_by or "time",
        "count": window.count,
        "dropped": window.dropped,
    }
    event = {**window.last, "depth": window.depth, "window": about}
    return {"event": event, "events": [*over.events, window.last]}
