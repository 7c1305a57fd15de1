"""What callers do to tasks: create, change, pause, resume, snooze, cancel, delete.

Each function works in the caller's transaction, so the change, its schedule, its event and its
audit entry are stored together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from ordinaut.api import confidences, intake, quotas, watching
from ordinaut.api.dependencies import Work
from ordinaut.api.schemas.tasks import Bulk, BulkResult, Snooze, TaskIn
from ordinaut.engine.schedule import CompiledSchedule, Occurrence, compile_schedule
from ordinaut.errors import Conflict, FieldProblem, InvalidInput
from ordinaut.model import Catchup, Json, Schedule, Task
from ordinaut.store import audit, calendars, queue, schedules, tasks, windows
from ordinaut.store.database import Tx
from ordinaut.store.tasks import Filter, TaskRecord

MAX_BULK: Final = 1000
# Schedulers look every second by themselves, so only what comes sooner is worth a NOTIFY,
# which would hold all commits in line.
NEAR: Final = timedelta(seconds=2)


async def create(tx: Tx, work: Work, body: TaskIn) -> tuple[TaskRecord, bool]:
    """Store a task; the second value is False when it repeats one with its ``dedupe_key``."""
    task = await planned(tx, work, draft(work, body))
    if task.dedupe_key is None:
        await quotas.tasks(tx, work, adding=1)
        return await _store(tx, work, task), True
    async with tx.transaction():
        known = await tasks.find_duplicate(tx, task)
        if known is not None:
            return await tasks.get(tx, known), False
        await quotas.tasks(tx, work, adding=1)
        return await _store(tx, work, task), True


async def create_batch(tx: Tx, work: Work, bodies: Sequence[TaskIn]) -> list[TaskRecord]:
    """Store all tasks, or none; a problem names the task (``tasks[3].title``)."""
    await quotas.tasks(tx, work, adding=len(bodies))
    quotas.payloads(work, (body.payload for body in bodies))
    now, zone = work.now, work.parts.settings.timezone
    known = await calendars.named(tx, {name for body in bodies for name in body.exclude})
    made: list[Task] = []
    problems: list[FieldProblem] = []
    named: list[tuple[str, str]] = []
    for index, body in enumerate(bodies):
        when = intake.schedule(body, zone=zone, anchor=now)
        try:
            first = intake.first_run(
                when,
                body.payload,
                window=body.event_window,
                parts=work.parts,
                calendars=known,
                now=now,
            )
        except InvalidInput as error:
            problems += [replace(p, path=f"tasks[{index}].{p.path}") for p in error.problems]
        else:
            owner = work.agent.id
            made.append(intake.draft(body, when, owner=owner, now=now, following=first.at))
            named += [(name, f"tasks[{index}].{place}") for name, place in first.secrets.items()]
    problems += await confidences.unknown(tx, work.agent.id, named)
    if problems:
        raise InvalidInput("some tasks can not be stored; none was", problems=tuple(problems))
    await tasks.create(tx, made, actor=work.actor, tzdata=schedules.tzdata_version())
    await watching.begin(tx, made, now=now)
    if any(_is_near(task, now) for task in made):
        await schedules.hint(tx)
    return await tasks.with_conditions(tx, [TaskRecord(task) for task in made])


def draft(work: Work, body: TaskIn) -> Task:
    """Return the caller's task that ``body`` describes, not checked yet."""
    now = work.now
    when = intake.schedule(body, zone=work.parts.settings.timezone, anchor=now)
    return intake.draft(body, when, owner=work.agent.id, now=now)


async def planned(tx: Tx, work: Work, task: Task) -> Task:
    """Check ``task`` and return it with its next occurrence."""
    quotas.payloads(work, [task.payload])
    known = await calendars.named(tx, task.schedule.exclude)
    first = intake.first_run(
        task.schedule,
        task.payload,
        window=task.event_window,
        parts=work.parts,
        calendars=known,
        now=work.now,
    )
    await confidences.check(tx, task, first.secrets)
    return replace(task, next_run_at=first.at)


async def amend(tx: Tx, work: Work, record: TaskRecord, given: Mapping[str, Any]) -> TaskRecord:
    """Change the ``given`` fields of a locked task.

    A change of its schedule computes the next occurrence anew, and lets a task that was
    completed fire again.
    """
    before, now = record.task, work.now
    after = await amended(tx, work, before, given)
    if after.schedule != before.schedule:
        after = replace(after, status="active" if before.status == "completed" else before.status)
        await schedules.set_next(tx, {after.id: after.next_run_at}, now=now)
    if _listening(after) != _listening(before):
        await windows.seal(tx, after.id)
    await tasks.update(tx, before, after=after, actor=work.actor)
    await watching.follow(tx, before, after, now=now)
    if after.next_run_at != before.next_run_at and _is_near(after, now):
        await schedules.hint(tx)
    return await tasks.get(tx, before.id)


async def amended(tx: Tx, work: Work, before: Task, given: Mapping[str, Any]) -> Task:
    """Return what a task would be with the ``given`` fields; store nothing."""
    if before.status == "canceled":
        raise Conflict("a canceled task can not be changed")
    zone = work.parts.settings.timezone
    after = intake.amended(before, given, zone=zone, now=work.now)
    if _listening(after) != _listening(before):
        return await planned(tx, work, after)
    quotas.payloads(work, [after.payload])
    named = intake.checked(after.schedule, after.payload, parts=work.parts)
    await confidences.check(tx, after, named)
    return after


async def pause(tx: Tx, work: Work, record: TaskRecord) -> bool:
    """Let a locked task fire no more until it is resumed; False when it is paused already."""
    if record.task.status == "paused":
        return False
    must_be(record.task, "active", "paused")
    now = work.now
    await schedules.pause(tx, [record.task.id], now=now)
    await tasks.set_status(
        tx, record.task, status="paused", action="pause", actor=work.actor, now=now
    )
    return True


async def resume(tx: Tx, work: Work, record: TaskRecord, *, catchup: Catchup | None) -> bool:
    """Let a locked task fire again; the tick decides on what fell into the pause."""
    if record.task.status == "active":
        return False
    must_be(record.task, "paused", "resumed")
    now = work.now
    [timed] = await schedules.load(tx, [record.task.id])
    following = _at((await compiled(tx, timed.schedule)).next(timed.decided_until))
    await schedules.resume(tx, {timed.task_id: following}, catchup=catchup, now=now)
    await watching.resume(tx, record.task, catchup=catchup, now=now)
    await tasks.set_status(
        tx, record.task, status="active", action="resume", actor=work.actor, now=now
    )
    await schedules.hint(tx)
    return True


async def snooze(tx: Tx, work: Work, record: TaskRecord, body: Snooze) -> None:
    """Move exactly the next occurrence of a locked task; ``seconds`` count from its time."""
    must_be(record.task, "active", "snoozed")
    [timed] = await schedules.load(tx, [record.task.id])
    schedule = await compiled(tx, timed.schedule)
    occurrence = timed.snoozed_for or _at(schedule.next(timed.decided_until))
    if occurrence is None:
        raise Conflict("nothing follows that could be snoozed")
    planned_for = timed.snoozed_to or occurrence
    to = body.until or planned_for + timedelta(seconds=body.seconds or 0)
    if to <= (earliest := max(work.now, occurrence)):
        raise InvalidInput.at("until", f"must be later than {earliest.isoformat()}")
    following = _at(schedule.next(occurrence))
    await schedules.snooze(tx, timed.task_id, occurrence=occurrence, to=to, following=following)
    moved = {"occurrence": occurrence.isoformat(), "to": to.isoformat()}
    await note(tx, work, "snooze", record.task, after=moved)


async def cancel(tx: Tx, work: Work, record: TaskRecord) -> bool:
    """End a locked task and its runs for good; False when it is canceled already."""
    if record.task.status == "canceled":
        return False
    await tasks.silence(tx, record.task.id)
    await windows.seal(tx, record.task.id)
    await queue.cancel(tx, task_ids=[record.task.id], reason="the task was canceled")
    await tasks.set_status(
        tx, record.task, status="canceled", action="cancel", actor=work.actor, now=work.now
    )
    return True


async def delete(tx: Tx, work: Work, record: TaskRecord) -> None:
    """Take a locked task out of sight and cancel its runs; its history stays."""
    await windows.seal(tx, record.task.id)
    await queue.cancel(tx, task_ids=[record.task.id], reason="the task was deleted")
    await tasks.delete(tx, record.task, actor=work.actor, now=work.now)


async def bulk(tx: Tx, work: Work, body: Bulk) -> BulkResult:
    """Do one thing to all tasks that fit and are in a state for it."""
    wanted = body.filter
    fitting = Filter(
        work.owner, wanted.status, wanted.schedule_kind, wanted.labels, wanted.q, wanted.ids
    )
    chosen = await tasks.matching(tx, fitting, limit=MAX_BULK + 1)
    if len(chosen) > MAX_BULK:
        raise InvalidInput.at("filter", f"more than {MAX_BULK} tasks fit")
    found = await tasks.lock(tx, chosen, owner=work.owner)
    changed = [record.task.id for record in found if await _apply(tx, work, body.action, record)]
    return BulkResult(matched=len(found), changed=changed)


async def compiled(tx: Tx, schedule: Schedule) -> CompiledSchedule:
    """Return a schedule with its calendars, ready to be asked."""
    return compile_schedule(schedule, calendars=await calendars.named(tx, schedule.exclude))


def must_be(task: Task, status: str, verb: str) -> None:
    """Raise :class:`Conflict` unless ``task`` has this status."""
    if task.status != status:
        raise Conflict(f"a {task.status} task can not be {verb}")


async def note(tx: Tx, work: Work, action: str, task: Task, *, after: Mapping[str, Any]) -> None:
    """Write down what was done to a task besides changing its fields."""
    await audit.record(
        tx,
        work.actor,
        action=f"task.{action}",
        entity="task",
        entity_id=task.id,
        after=dict(after),
    )


async def _apply(tx: Tx, work: Work, action: str, record: TaskRecord) -> bool:
    match action, record.task.status:
        case "pause", "active":
            return await pause(tx, work, record)
        case "resume", "paused":
            return await resume(tx, work, record, catchup=None)
        case "cancel", _:
            return await cancel(tx, work, record)
    return False


async def _store(tx: Tx, work: Work, task: Task) -> TaskRecord:
    if task.schedule.kind == "condition":
        async with tx.transaction():
            await tasks.create(tx, [task], actor=work.actor, tzdata=schedules.tzdata_version())
            await watching.begin(tx, [task], now=task.created_at)
        return (await tasks.with_conditions(tx, [TaskRecord(task)]))[0]
    await tasks.create(tx, [task], actor=work.actor, tzdata=schedules.tzdata_version())
    if _is_near(task, task.created_at):
        await schedules.hint(tx)
    return TaskRecord(task)


def _listening(task: Task) -> tuple[Schedule, Json]:
    return task.schedule, task.event_window


def _is_near(task: Task, now: datetime) -> bool:
    return task.next_run_at is not None and task.next_run_at - now < NEAR


def _at(occurrence: Occurrence | None) -> datetime | None:
    return None if occurrence is None else occurrence.at
