"""What events do to a task: which of them start it, why others do not, and the writing of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from ordinaut.engine.schedule import jitter
from ordinaut.model import Event, Json, NewWork, Verdict
from ordinaut.store import journal, ledger, queue, schedules
from ordinaut.store.database import Tx
from ordinaut.store.ledger import Skipped
from ordinaut.store.schedules import Advance, Timed
from ordinaut.store.triggers import MAX_DEPTH, Caused


@dataclass(slots=True)
class Firing:
    """What a batch of events does to one task, in the order of the events.

    ``live`` tells that a run of the task has not ended.
    """

    task: Timed
    live: bool
    work: list[NewWork] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    last: datetime | None = None

    def admits(self, caused: Caused) -> bool:
        """Tell whether an event that fits is one that the task may hear."""
        event = caused.event
        if not _is_in_time(self.task, event.at):
            return False
        if caused.depth <= MAX_DEPTH:
            return True
        self.skip(
            event.at,
            "canceled",
            f"event {event.seq} ({event.topic}) comes at the end of more than "
            f"{MAX_DEPTH} runs that started each other; do the tasks form a circle?",
        )
        return False

    def start(self, payload: Json, *, at: datetime, now: datetime) -> None:
        """Start the task by what happened ``at`` then, unless a run is in the way."""
        if self.is_spent:
            return
        if self.live and self.task.overlap == "skip":
            self.skip(at, "skipped_overlap", "an earlier run of the task had not ended")
            return
        if self.last is not None and self.task.overlap == "cancel_running":
            self.skip(self.last, "canceled", "a later event started the task")
            self.work.clear()
        self.work.append(_work(self.task, payload, at=at, now=now))
        self.live, self.last = True, at

    def skip(self, at: datetime, verdict: Verdict, reason: str) -> None:
        """Note why what happened ``at`` then starts nothing."""
        self.skipped.append(Skipped(self.task.task_id, at, verdict, reason))

    @property
    def is_spent(self) -> bool:
        """Whether the task has had all the runs that it may have."""
        most = self.task.max_runs
        return most is not None and self.task.fired + len(self.work) >= most


async def live(tx: Tx, tasks: Sequence[Timed]) -> set[UUID]:
    """Return those of the tasks that have a run, where that makes a difference."""
    asking = [t.task_id for t in tasks if t.overlap in ("skip", "cancel_running")]
    return await schedules.live(tx, asking)


async def write(tx: Tx, firings: Sequence[Firing], live: set[UUID], *, now: datetime) -> None:
    """Write due work, verdicts, counts and events; ``live`` are the tasks with a run before."""
    firings = [f for f in firings if f.work or f.skipped]
    starting = [f for f in firings if f.work]
    replacing = {f.task.task_id for f in starting if f.task.overlap == "cancel_running"}
    overtaken = sorted(replacing & live)
    if overtaken:
        await queue.cancel(tx, task_ids=overtaken, reason="a later event started the task", now=now)
    await queue.enqueue(tx, [work for f in firings for work in f.work], now=now)
    await ledger.record(tx, [skipped for f in firings for skipped in f.skipped], now=now)
    await schedules.advance(tx, [_advance(f) for f in starting])
    spent = [f.task.task_id for f in starting if f.is_spent]
    await schedules.end_tasks(tx, spent, status="completed", now=now)
    await journal.emit(tx, [event for f in firings for event in _events(f)], now=now)


def _work(task: Timed, payload: Json, *, at: datetime, now: datetime) -> NewWork:
    run_at = now
    if task.jitter_seconds:
        run_at += jitter(task.task_id, at, task.jitter_seconds)
    return task.run("event", run_at=run_at, payload=payload)


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
    events = ledger.announce(firing.skipped, trigger="event")
    if firing.work and firing.is_spent:
        events.append(Event("task.completed", {"status": "completed"}, firing.task.task_id))
    return events
