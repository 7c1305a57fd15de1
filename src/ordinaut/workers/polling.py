"""What a poll leads to: a run, a verdict, an event, or only a new state.

Most polls find nothing new; they are one statement. Everything else is one transaction that first
takes the schedule of the task, as whoever changes a task does, and then proves by the token of
the poll that it is still ours. So an edge fires once, and nothing fires for a task that was
paused, changed or deleted meanwhile.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from ordinaut.engine import probe as engine
from ordinaut.engine.probe import Judgement
from ordinaut.engine.schedule import jitter
from ordinaut.engine.steps import Probe
from ordinaut.model import Event, Json, NewWork, Verdict
from ordinaut.store import calendars, journal, leaders, ledger, probes, queue, schedules, triggers
from ordinaut.store.database import Tx
from ordinaut.store.ledger import Skipped
from ordinaut.store.probes import Poll, Polled
from ordinaut.store.schedules import Advance, Timed

STALL: Final = timedelta(seconds=5)


class Finding(NamedTuple):
    """What a probe said ``at`` an instant: whether the condition holds, or why that is unknown.

    Without a ``probe`` nothing was called.
    """

    probe: Probe | None
    at: datetime
    held: bool | None = None
    result: Json = None
    error: Json = None


class _Outcome(NamedTuple):
    """What a poll does to its task besides its state."""

    work: NewWork | None = None
    skipped: Skipped | None = None
    replaces: bool = False  # the runs of the task that have not ended


async def settle(tx: Tx, poll: Poll, finding: Finding, *, worker_id: UUID) -> bool:
    """Write down what a poll found; True when the task fires."""
    judgement = _judge(poll, finding)
    polled = Polled(
        finding.at, finding.held, judgement.armed, _next(poll, finding), error=finding.error
    )
    if not _is_news(poll, finding, judgement) and polled.next_at is not None:
        await probes.settle(tx, poll, polled, worker_id=worker_id)
        return False
    async with tx.transaction():
        fired = await _settle_news(tx, poll, finding, judgement, worker_id=worker_id)
    if fired:
        await queue.hint(tx)
    return fired


def _judge(poll: Poll, finding: Finding) -> Judgement:
    if finding.probe is None or finding.held is None:
        return Judgement(fires=False, armed=poll.armed)
    return engine.judge(
        finding.probe, finding.held, armed=poll.armed, fired_at=poll.fired_at, now=finding.at
    )


def _next(poll: Poll, finding: Finding) -> datetime | None:
    following = engine.next_poll(poll.due_at, poll.every, now=finding.at)
    return None if poll.ends_at is not None and following > poll.ends_at else following


def _is_news(poll: Poll, finding: Finding, judgement: Judgement) -> bool:
    if judgement.fires or judgement.suppressed is not None:
        return True
    return (finding.error is not None) is not (poll.failures > 0)


async def _settle_news(
    tx: Tx, poll: Poll, finding: Finding, judgement: Judgement, *, worker_id: UUID
) -> bool:
    await leaders.guard(tx, stall=STALL)
    held = await triggers.hold(tx, [poll.task_id])
    if not held or not held[0].active:
        return False  # whoever resumes the task polls anew
    task = held[0]
    outcome = await _decide(tx, task, poll, finding, judgement)
    fired = outcome.work is not None
    spent = task.max_runs is not None and task.fired + fired >= task.max_runs
    next_at = None if spent else _next(poll, finding)
    polled = Polled(
        finding.at, finding.held, judgement.armed, next_at, fired=fired, error=finding.error
    )
    if not await probes.settle(tx, poll, polled, worker_id=worker_id):
        return False
    await journal.emit(tx, _health(poll, finding), now=finding.at)
    await _write(tx, task, outcome, finding)
    if next_at is None:
        await schedules.end_tasks(tx, [task.task_id], status="completed", now=finding.at)
    await journal.emit(tx, _events(poll.task_id, outcome, over=next_at is None), now=finding.at)
    return fired


async def _decide(
    tx: Tx, task: Timed, poll: Poll, finding: Finding, judgement: Judgement
) -> _Outcome:
    """Return whether the task fires; why it does not is said once for each edge."""
    if judgement.suppressed is not None:
        return _Outcome(skipped=_skipped(poll, "skipped_condition", judgement.suppressed))
    if not judgement.fires:
        return _Outcome()
    excluded = await _excluded(tx, task, finding.at)
    if excluded is not None:
        return _Outcome(skipped=_skipped(poll, "skipped_calendar", excluded))
    live = task.overlap in ("skip", "cancel_running") and bool(
        await schedules.live(tx, [task.task_id])
    )
    if live and task.overlap == "skip":
        reason = "an earlier run of the task had not ended"
        return _Outcome(skipped=_skipped(poll, "skipped_overlap", reason))
    return _Outcome(work=_work(task, poll, finding), replaces=live)


async def _excluded(tx: Tx, task: Timed, at: datetime) -> str | None:
    """Return why the task must not fire on this day, if there is a reason."""
    if not task.schedule.exclude:
        return None
    day = at.astimezone(ZoneInfo(task.schedule.timezone)).date()
    known = await calendars.named(tx, task.schedule.exclude)
    for name, calendar in known.items():
        if (reason := calendar.reason(day)) is not None:
            return f'calendar "{name}": {reason}'
    return None


def _skipped(poll: Poll, verdict: Verdict, reason: str) -> Skipped | None:
    # A level that goes on has had its verdict when it began.
    return Skipped(poll.task_id, poll.due_at, verdict, reason) if poll.armed else None


def _work(task: Timed, poll: Poll, finding: Finding) -> NewWork:
    run_at = finding.at
    if task.jitter_seconds:
        run_at += jitter(task.task_id, poll.due_at, task.jitter_seconds)
    return task.run(
        "condition", run_at=run_at, scheduled_for=poll.due_at, payload={"probe": finding.result}
    )


async def _write(tx: Tx, task: Timed, outcome: _Outcome, finding: Finding) -> None:
    if outcome.replaces:
        reason = "the condition of the task became true again"
        await queue.cancel(tx, task_ids=[task.task_id], reason=reason, now=finding.at)
    if outcome.skipped is not None:
        await ledger.record(tx, [outcome.skipped], now=finding.at)
    if outcome.work is not None:
        await queue.enqueue(tx, [outcome.work], now=finding.at)
        last = outcome.work.scheduled_for
        step = Advance(task.task_id, None, task.decided_until, last_scheduled_for=last, fired=1)
        await schedules.advance(tx, [step])


def _health(poll: Poll, finding: Finding) -> list[Event]:
    """Return what is said when a probe begins to fail, and when it works again."""
    if finding.error is not None and not poll.failures:
        return [Event("task.probe_failed", {"error": finding.error}, poll.task_id)]
    if finding.held is not None and poll.failures:
        return [Event("task.probe_recovered", {"failures": poll.failures}, poll.task_id)]
    return []


def _events(task_id: UUID, outcome: _Outcome, *, over: bool) -> list[Event]:
    skipped = [] if outcome.skipped is None else [outcome.skipped]
    events = ledger.announce(skipped, trigger="condition")
    if over:
        events.append(Event("task.completed", {"status": "completed"}, task_id))
    return events
