"""What callers do to tasks: create, change, pause, resume, snooze, cancel, delete, run.

Each function works in the caller's transaction, so the change, its schedule, its event and its
audit entry are stored together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from ordinaut.api import intake
from ordinaut.api.dependencies import Caller
from ordinaut.api.schemas.tasks import Bulk, BulkResult, RunNow, Snooze, TaskIn
from ordinaut.api.services import Services
from ordinaut.engine.schedule import CompiledSchedule, Occurrence, compile_schedule
from ordinaut.errors import Conflict, FieldProblem, InvalidInput
from ordinaut.model import Catchup, NewWork, Schedule, Task, uuid7
from ordinaut.store import audit, calendars, queue, runs, schedules, tasks
from ordinaut.store.audit import Actor
from ordinaut.store.database import Tx
from ordinaut.store.runs import Run
from ordinaut.store.tasks import Filter, TaskRecord

MAX_BULK: Final = 1000
# Schedulers look every second by themselves, so only what comes sooner is worth a NOTIFY,
# which would hold all commits in line.
NEAR: Final = timedelta(seconds=2)


async def create(
    tx: Tx, parts: Services, body: TaskIn, *, caller: Caller
) -> tuple[TaskRecord, bool]:
    """Store a task; the second value is False when it repeats one with its ``dedupe_key``."""
    task = await _planned(tx, parts, _draft(parts, body, caller))
    if task.dedupe_key is None:
        return await _store(tx, task, caller), True
    async with tx.transaction():
        known = await tasks.find_duplicate(tx, task)
        if known is not None:
            return await tasks.get(tx, known), False
        return await _store(tx, task, caller), True


async def create_batch(
    tx: Tx, parts: Services, bodies: Sequence[TaskIn], *, caller: Caller
) -> list[TaskRecord]:
    """Store all tasks, or none; a problem names the task (``tasks[3].title``)."""
    now = parts.clock.now()
    known = await calendars.named(tx, {name for body in bodies for name in body.exclude})
    made: list[Task] = []
    problems: list[FieldProblem] = []
    for index, body in enumerate(bodies):
        try:
            task = intake.draft(body, owner=caller.agent.id, zone=parts.settings.timezone, now=now)
            made.append(intake.plan(task, check=parts.check, calendars=known, now=now))
        except InvalidInput as error:
            problems += [replace(p, path=f"tasks[{index}].{p.path}") for p in error.problems]
    if problems:
        raise InvalidInput("some tasks can not be stored; none was", problems=tuple(problems))
    await tasks.create(tx, made, actor=caller.actor, tzdata=schedules.tzdata_version())
    if any(_is_near(task, now) for task in made):
        await schedules.hint(tx)
    return [TaskRecord(task) for task in made]


async def validated(tx: Tx, parts: Services, body: TaskIn, *, caller: Caller) -> Task:
    """Return the task that ``body`` would make, and store nothing."""
    return await _planned(tx, parts, _draft(parts, body, caller))


async def upcoming(tx: Tx, task: Task, *, count: int) -> list[datetime]:
    """Return when a task that is not stored would fire next."""
    schedule = await compiled(tx, task.schedule)
    return [one.at for one in islice(schedule.iterate(task.created_at), count)]


async def amend(
    tx: Tx, parts: Services, record: TaskRecord, given: Mapping[str, Any], *, actor: Actor
) -> TaskRecord:
    """Change the ``given`` fields of a locked task.

    A change of its schedule computes the next occurrence anew, and lets a task that was
    completed fire again.
    """
    before, now = record.task, parts.clock.now()
    if before.status == "canceled":
        raise Conflict("a canceled task can not be changed")
    after = intake.amended(before, given, zone=parts.settings.timezone, now=now)
    rescheduled = after.schedule != before.schedule
    if rescheduled:
        after = await _planned(tx, parts, after)
        after = replace(after, status="active" if before.status == "completed" else before.status)
        await schedules.set_next(tx, {after.id: after.next_run_at}, now=now)
    else:
        parts.check(after.payload)
    await tasks.update(tx, before, after=after, actor=actor)
    if rescheduled and _is_near(after, now):
        await schedules.hint(tx)
    return await tasks.get(tx, before.id)


async def pause(tx: Tx, record: TaskRecord, *, actor: Actor, now: datetime) -> bool:
    """Let a locked task fire no more until it is resumed; False when it is paused already."""
    if record.task.status == "paused":
        return False
    _must_be(record.task, "active", "paused")
    await schedules.pause(tx, [record.task.id], now=now)
    await tasks.set_status(tx, record.task, status="paused", action="pause", actor=actor, now=now)
    return True


async def resume(
    tx: Tx, record: TaskRecord, *, catchup: Catchup | None, actor: Actor, now: datetime
) -> bool:
    """Let a locked task fire again; the tick decides on what fell into the pause."""
    if record.task.status == "active":
        return False
    _must_be(record.task, "paused", "resumed")
    [timed] = await schedules.load(tx, [record.task.id])
    following = _at((await compiled(tx, timed.schedule)).next(timed.decided_until))
    await schedules.resume(tx, {timed.task_id: following}, catchup=catchup, now=now)
    await tasks.set_status(tx, record.task, status="active", action="resume", actor=actor, now=now)
    await schedules.hint(tx)
    return True


async def snooze(tx: Tx, record: TaskRecord, body: Snooze, *, actor: Actor, now: datetime) -> None:
    """Move exactly the next occurrence of a locked task; ``seconds`` count from its time."""
    _must_be(record.task, "active", "snoozed")
    [timed] = await schedules.load(tx, [record.task.id])
    schedule = await compiled(tx, timed.schedule)
    occurrence = timed.snoozed_for or _at(schedule.next(timed.decided_until))
    if occurrence is None:
        raise Conflict("nothing follows that could be snoozed")
    planned = timed.snoozed_to or occurrence
    to = body.until or planned + timedelta(seconds=body.seconds or 0)
    if to <= (earliest := max(now, occurrence)):
        raise InvalidInput.at("until", f"must be later than {earliest.isoformat()}")
    following = _at(schedule.next(occurrence))
    await schedules.snooze(tx, timed.task_id, occurrence=occurrence, to=to, following=following)
    await _note(tx, actor, "snooze", record.task, after={"occurrence": occurrence, "to": to})


async def cancel(tx: Tx, record: TaskRecord, *, actor: Actor, now: datetime) -> bool:
    """End a locked task and its runs for good; False when it is canceled already."""
    if record.task.status == "canceled":
        return False
    await tasks.silence(tx, record.task.id)
    await queue.cancel(tx, task_ids=[record.task.id], reason="the task was canceled")
    await tasks.set_status(
        tx, record.task, status="canceled", action="cancel", actor=actor, now=now
    )
    return True


async def delete(tx: Tx, record: TaskRecord, *, actor: Actor, now: datetime) -> None:
    """Take a locked task out of sight and cancel its runs; its history stays."""
    await queue.cancel(tx, task_ids=[record.task.id], reason="the task was deleted")
    await tasks.delete(tx, record.task, actor=actor, now=now)


async def run_now(tx: Tx, record: TaskRecord, body: RunNow, *, actor: Actor, now: datetime) -> Run:
    """Enqueue a run out of turn and return it."""
    task = record.task
    if task.status == "canceled":
        raise Conflict("a canceled task can not be run")
    work = NewWork(
        id=uuid7(),
        task_id=task.id,
        task_version=task.version,
        scheduled_for=None,
        run_at=body.run_at or now,
        priority=body.priority or task.priority,
        trigger="run_now",
        payload=None if body.params is None else {"params": body.params},
        concurrency_key=task.concurrency_key,
        max_concurrency=task.max_concurrency,
    )
    await queue.enqueue(tx, [work], now=now)
    await queue.hint(tx)
    await _note(tx, actor, "run_now", task, after={"run_id": work.id})
    return await runs.get(tx, work.id)


async def compiled(tx: Tx, schedule: Schedule) -> CompiledSchedule:
    """Return a schedule with its calendars, ready to be asked."""
    return compile_schedule(schedule, calendars=await calendars.named(tx, schedule.exclude))


async def bulk(tx: Tx, body: Bulk, *, caller: Caller, now: datetime) -> BulkResult:
    """Do one thing to all tasks that fit and are in a state for it."""
    wanted = body.filter
    fitting = Filter(
        caller.owner, wanted.status, wanted.schedule_kind, wanted.labels, wanted.q, wanted.ids
    )
    chosen = await tasks.matching(tx, fitting, limit=MAX_BULK + 1)
    if len(chosen) > MAX_BULK:
        raise InvalidInput.at("filter", f"more than {MAX_BULK} tasks fit")
    found = await tasks.lock(tx, chosen, owner=caller.owner)
    changed = [
        record.task.id
        for record in found
        if await _apply(tx, body.action, record, actor=caller.actor, now=now)
    ]
    return BulkResult(matched=len(found), changed=changed)


async def _apply(tx: Tx, action: str, record: TaskRecord, *, actor: Actor, now: datetime) -> bool:
    match action, record.task.status:
        case "pause", "active":
            return await pause(tx, record, actor=actor, now=now)
        case "resume", "paused":
            return await resume(tx, record, catchup=None, actor=actor, now=now)
        case "cancel", _:
            return await cancel(tx, record, actor=actor, now=now)
    return False


def _at(occurrence: Occurrence | None) -> datetime | None:
    return None if occurrence is None else occurrence.at


def _draft(parts: Services, body: TaskIn, caller: Caller) -> Task:
    return intake.draft(
        body, owner=caller.agent.id, zone=parts.settings.timezone, now=parts.clock.now()
    )


async def _planned(tx: Tx, parts: Services, task: Task) -> Task:
    known = await calendars.named(tx, task.schedule.exclude)
    return intake.plan(task, check=parts.check, calendars=known, now=parts.clock.now())


async def _store(tx: Tx, task: Task, caller: Caller) -> TaskRecord:
    await tasks.create(tx, [task], actor=caller.actor, tzdata=schedules.tzdata_version())
    if _is_near(task, task.created_at):
        await schedules.hint(tx)
    return TaskRecord(task)


def _is_near(task: Task, now: datetime) -> bool:
    return task.next_run_at is not None and task.next_run_at - now < NEAR


def _must_be(task: Task, status: str, verb: str) -> None:
    if task.status != status:
        raise Conflict(f"a {task.status} task can not be {verb}")


async def _note(tx: Tx, actor: Actor, action: str, task: Task, *, after: dict[str, Any]) -> None:
    plain = {
        name: value.isoformat() if isinstance(value, datetime) else str(value)
        for name, value in after.items()
    }
    await audit.record(
        tx, actor, action=f"task.{action}", entity="task", entity_id=task.id, after=plain
    )
