"""What a tick does about one task: pure, from the task and the instant to a plan."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from ordinaut.engine.schedule import CompiledSchedule, Exclusion, jitter
from ordinaut.model import NewWork
from ordinaut.scheduler.catchup import Absences, Following, Ruling
from ordinaut.scheduler.shared import Memory
from ordinaut.store.ledger import Skipped
from ordinaut.store.schedules import Advance, Timed

CHUNK = 1_000  # occurrences of one task in one tick; the next tick goes on

_MICROSECOND = timedelta(microseconds=1)
_OVERLAPS = Ruling("skipped_overlap", "an earlier run of the task had not ended")
_OVERTAKEN = Ruling("canceled", "a later occurrence was due as well and took its place")


class Due(NamedTuple):
    """An occurrence: when it shall run, and the instant it is known by. A snooze parts them."""

    run_at: datetime
    at: datetime


class Plan(NamedTuple):
    """All that one tick writes about one task."""

    task: Timed
    advance: Advance
    work: list[NewWork]
    skipped: list[Skipped]
    completed: bool


def plan(
    task: Timed, memory: Memory, *, now: datetime, absences: Absences, live: bool, chunk: int
) -> Plan:
    """Decide every occurrence up to ``now``, or the first ``chunk`` of them.

    Tasks share the ``memory``; ``live`` says that a run of the task has not ended.
    """
    at = task.next_run_at
    if at is not None and at <= now and _is_plain(task, absences, live=live):
        upcoming = memory.next(task.schedule, at)
        if upcoming is None or upcoming > now:
            return _single(task, at, upcoming, now)
    return _whole(task, memory, now=now, absences=absences, live=live, chunk=chunk)


def _whole(
    task: Timed, memory: Memory, *, now: datetime, absences: Absences, live: bool, chunk: int
) -> Plan:
    schedule, following = memory.compiled(task.schedule), partial(memory.next, task.schedule)
    due, upcoming = _due(task, schedule, now, following, chunk)
    until = due[-1].at if len(due) == chunk else now
    taken = _taken_away(task, schedule, until, chunk)
    if len(taken) == chunk and taken[-1].at < until:
        until = taken[-1].at
        upcoming = next((at for _, at in due if at > until), upcoming)
        due = [occurrence for occurrence in due if occurrence.at <= until]
    snoozed = _snoozed(task, until)
    if snoozed:
        due = sorted([*due, snoozed])
    decisions = list(_decide(task, due, absences, now=now, live=live, following=following))
    work, skipped = _parted(task, decisions)
    skipped += [_taken(task, exclusion) for exclusion in taken]
    pending = None if snoozed else task.snoozed_to
    spent = task.max_runs is not None and task.fired + len(work) >= task.max_runs
    nexts = [] if spent else [at for at in (upcoming, pending) if at is not None]
    advance = Advance(
        task.task_id,
        next_run_at=min(nexts, default=None),
        look_at=_first_taken(task, schedule, until, before=upcoming) if nexts else None,
        decided_until=until,
        last_scheduled_for=work[-1].scheduled_for if work else None,
        fired=len(work),
        snoozed=pending is not None,
    )
    return Plan(task, advance, work, skipped, completed=not nexts)


def _is_plain(task: Timed, absences: Absences, *, live: bool) -> bool:
    """Tell whether ``next_run_at`` is an occurrence that nothing keeps from running."""
    return not (
        task.resumed_at
        or task.snoozed_for
        or task.max_runs is not None
        or absences
        or (live and task.overlap == "skip")
        or _has_exclusions(task)
    )


def _single(task: Timed, at: datetime, upcoming: datetime | None, now: datetime) -> Plan:
    """Return the plan when one occurrence is due and plain: nearly always, so it is short."""
    moved = Advance(task.task_id, upcoming, now, last_scheduled_for=at, fired=1)
    return Plan(task, moved, [_work(task, at, at)], [], completed=upcoming is None)


def undecided_after(task: Timed) -> datetime:
    """Return the instant after which nothing of a due task is decided."""
    marked = task.snoozed_for is not None or task.resumed_at is not None
    if marked or task.next_run_at is None:
        return task.decided_until
    # A task may have been stored in the instant between its next occurrence and now.
    return min(task.decided_until, task.next_run_at - _MICROSECOND)


def _taken_away(
    task: Timed, schedule: CompiledSchedule, until: datetime, limit: int
) -> list[Exclusion]:
    if not _has_exclusions(task):
        return []
    return schedule.excluded_between(undecided_after(task), until, limit=limit)


def _first_taken(
    task: Timed, schedule: CompiledSchedule, after: datetime, *, before: datetime | None
) -> datetime | None:
    """Return when the tick shall look for an occurrence that something takes away."""
    if before is None or not _has_exclusions(task):
        return None
    found = schedule.excluded_between(after, before, limit=1)
    return found[0].at if found else None


def _has_exclusions(task: Timed) -> bool:
    return bool(task.schedule.exclude) or task.schedule.dst_gap == "skip"


def _due(
    task: Timed, schedule: CompiledSchedule, until: datetime, following: Following, limit: int
) -> tuple[list[Due], datetime | None]:
    """Return the occurrences up to ``until``, and the first one that is left for later."""
    found: list[Due] = []
    for at in _occurrences(task, schedule, following):
        if at > until or len(found) == limit:
            return found, at
        found.append(Due(at, at))
    return found, None


def _occurrences(
    task: Timed, schedule: CompiledSchedule, following: Following
) -> Iterator[datetime]:
    marked = task.snoozed_for or task.resumed_at
    if marked or _has_exclusions(task) or task.next_run_at is None:
        first = following(undecided_after(task))  # next_run_at is only a call to look
    else:
        first = task.next_run_at
    if first is None:
        return
    yield first
    second = following(first)
    if second is None:
        return
    yield second
    for occurrence in schedule.iterate(second):
        yield occurrence.at


def _snoozed(task: Timed, until: datetime) -> Due | None:
    if task.snoozed_for is None or task.snoozed_to is None or task.snoozed_to > until:
        return None
    return Due(task.snoozed_to, task.snoozed_for)


def _decide(
    task: Timed,
    due: list[Due],
    absences: Absences,
    *,
    now: datetime,
    live: bool,
    following: Following,
) -> Iterator[NewWork | Skipped]:
    left = None if task.max_runs is None else task.max_runs - task.fired
    for occurrence in due:
        if left is not None and left <= 0:
            return
        ruling = absences.rule(occurrence.run_at, following, now=now) if absences else None
        if ruling is None and live and task.overlap == "skip":
            ruling = _OVERLAPS
        if ruling is not None:
            yield _skipped(task, occurrence.at, ruling)
            continue
        yield _work(task, *occurrence)
        live = True
        left = None if left is None else left - 1


def _parted(task: Timed, decisions: list[NewWork | Skipped]) -> tuple[list[NewWork], list[Skipped]]:
    work = [decision for decision in decisions if isinstance(decision, NewWork)]
    skipped = [decision for decision in decisions if isinstance(decision, Skipped)]
    if task.overlap == "cancel_running":
        earlier = (w.scheduled_for for w in work[:-1])
        skipped += [_skipped(task, at, _OVERTAKEN) for at in earlier if at is not None]
        work = work[-1:]
    return work, skipped


def _work(task: Timed, run_at: datetime, at: datetime) -> NewWork:
    if task.jitter_seconds and run_at == at:
        run_at += jitter(task.task_id, at, task.jitter_seconds)
    return task.run("schedule", run_at=run_at, scheduled_for=at)


def _skipped(task: Timed, at: datetime, ruling: Ruling) -> Skipped:
    return Skipped(task.task_id, at, ruling.verdict, ruling.reason)


def _taken(task: Timed, exclusion: Exclusion) -> Skipped:
    return Skipped(task.task_id, exclusion.at, exclusion.verdict, exclusion.reason)
