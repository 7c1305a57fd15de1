"""The tick: one pass of the scheduler, in which time becomes work.

::

    claim      lock due schedules, FOR UPDATE SKIP LOCKED, the longest due first
    load       what decides when these tasks fire, and what fell into an absence or overlaps
    plan       in Python, one task at a time: which occurrences run, and why others do not
    write      due work, verdicts, the next occurrence, completions, events
    commit     all of it, or nothing

Why an occurrence is enqueued exactly once: between reading ``next_run_at`` and moving it on, the
row is locked, and the work is inserted in that same transaction. A second scheduler skips the
locked row; after the commit it reads the new ``next_run_at``. When a scheduler dies in between,
PostgreSQL rolls back and the occurrence is still due. One that froze while it held the locks
loses its session after ``STALL``, so that its tasks are late by seconds, not for ever.

Why nothing is lost: no occurrence is dropped for being late. The only ones that do not run are
those with a verdict, and the verdict is a row of the same transaction.

Why one bad task does not stop the others: a schedule that can not be computed any more, and a
row that PostgreSQL refuses, pause their own task, with the reason in an event.

The work of a tick is bounded (``limit`` tasks, ``CHUNK`` occurrences of each, about ``MOST`` of
all), and what is left is due again at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from psycopg import DataError, IntegrityError

from ordinaut.engine.calendar import Calendar
from ordinaut.model import Event
from ordinaut.scheduler import windows
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.catchup import NO_ABSENCES, Absences
from ordinaut.scheduler.plan import CHUNK, Plan, plan, undecided_after
from ordinaut.scheduler.shared import Memory
from ordinaut.store import journal, leaders, ledger, pulse, queue, schedules
from ordinaut.store.database import Database, Tx
from ordinaut.store.pulse import Downtime
from ordinaut.store.schedules import Advance, Pause, Timed
from ordinaut.telemetry import emit, logger

LIMIT = 2_000  # tasks in one tick
BREATH = 100  # tasks that are planned without a look at the other coroutines
MOST = 10_000  # occurrences; who comes after so many has one, or planning may outlast STALL
STALL = timedelta(seconds=5)

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class TickResult:
    """What one tick did; ``more`` when something was still due."""

    enqueued: int = 0
    skipped: int = 0
    completed: int = 0
    broken: int = 0
    promoted: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class _Situation:
    """What the planning of claimed tasks needs besides the tasks."""

    now: datetime
    calendars: Mapping[str, Calendar]
    pauses: Mapping[UUID, Sequence[Pause]]
    downtimes: Sequence[Downtime]
    live: frozenset[UUID]


async def tick(
    db: Database,
    calendars: Calendars,
    *,
    limit: int = LIMIT,
    now: datetime | None = None,
    full: Callable[[], None] = lambda: None,
) -> TickResult:
    """Enqueue what is due; ``now`` replaces the database's clock in tests.

    ``calendars`` is kept between ticks. ``full`` is called as soon as ``limit`` tasks are locked:
    then there may be others, which another tick can take.
    """
    async with db.connection() as tx:
        promoted = await queue.promote(tx, limit=limit, now=now)
    closed = await windows.close(db, now=now)
    try:
        async with db.transaction() as tx:
            result = await _fire(tx, calendars, limit=limit, now=now, full=full)
            await _hint(tx, promoted + closed.runs + result.enqueued)
    except (DataError, IntegrityError):
        async with db.transaction() as tx:
            result = await _fire(tx, calendars, limit=limit, now=now, full=full, one_by_one=True)
            await _hint(tx, promoted + closed.runs + result.enqueued)
    result = replace(
        result,
        enqueued=result.enqueued + closed.runs,
        skipped=result.skipped + closed.skipped,
        promoted=promoted,
        more=result.more or closed.more or promoted == limit,
    )
    if result.enqueued or result.skipped or result.broken:
        emit("tick.fired", enqueued=result.enqueued, skipped=result.skipped, broken=result.broken)
    return result


async def _hint(tx: Tx, ready: int) -> None:
    """Wake the workers by the commit that makes work ready: another one would cost a flush."""
    if ready:
        await queue.hint(tx)


async def _fire(
    tx: Tx,
    calendars: Calendars,
    *,
    limit: int,
    now: datetime | None,
    full: Callable[[], None],
    one_by_one: bool = False,
) -> TickResult:
    await leaders.guard(tx, stall=STALL)
    instant, ids = await schedules.claim(tx, limit=limit, now=now)
    if instant is None:
        return TickResult()
    if len(ids) == limit:
        full()
    tasks = await schedules.load(tx, ids)
    situation = await _look(tx, tasks, calendars, instant)
    plans, broken = await _plan_all(tasks, situation)
    refused: dict[UUID, str] = {}
    if one_by_one:
        refused = await _write_each(tx, plans, situation)
    else:
        await _write(tx, plans, situation)
    await _contain(tx, {**broken, **refused}, now=instant)
    written = [p for p in plans if p.task.task_id not in refused]
    return TickResult(
        enqueued=sum(len(p.work) for p in written),
        skipped=sum(len(p.skipped) for p in written),
        completed=sum(p.completed for p in written),
        broken=len(broken) + len(refused),
        more=len(ids) == limit or any(_is_due(p, instant) for p in written),
    )


async def _look(tx: Tx, tasks: Sequence[Timed], calendars: Calendars, now: datetime) -> _Situation:
    active = [task for task in tasks if task.active]
    since = min((undecided_after(task) for task in active), default=now)
    return _Situation(
        now=now,
        calendars=await calendars.named(tx, (n for t in active for n in t.schedule.exclude)),
        pauses=await schedules.pauses(tx, [t.task_id for t in active if t.resumed_at]),
        downtimes=await pulse.downtimes(tx, since=since),
        live=frozenset(
            await schedules.live(
                tx, [t.task_id for t in active if t.overlap in ("skip", "cancel_running")]
            )
        ),
    )


async def _plan_all(
    tasks: Sequence[Timed], situation: _Situation
) -> tuple[list[Plan], dict[UUID, str]]:
    plans: list[Plan] = []
    broken: dict[UUID, str] = {}
    memory, planned = Memory(situation.calendars), 0
    for number, task in enumerate(tasks, start=1):
        if number % BREATH == 0:
            await asyncio.sleep(0)  # what else has come may be answered, as to another tick
        if not task.active or task.schedule.kind in ("event", "condition"):
            plans.append(_rest(task))
            continue
        try:
            chunk = CHUNK if planned < MOST else 1
            plans.append(made := _plan(task, situation, memory, chunk))
            planned += len(made.work) + len(made.skipped)
        except Exception as error:
            # Whatever a schedule does to the engine, the other tasks of this tick must fire.
            log.exception("tick.broken", task_id=str(task.task_id))
            broken[task.task_id] = f"its schedule can not be computed: {error}"
    return plans, broken


def _plan(task: Timed, situation: _Situation, memory: Memory, chunk: int) -> Plan:
    return plan(
        task,
        memory,
        now=situation.now,
        absences=_absences(task, situation),
        live=task.task_id in situation.live,
        chunk=chunk,
    )


def _absences(task: Timed, situation: _Situation) -> Absences:
    pauses = situation.pauses.get(task.task_id, ())
    if not pauses and not situation.downtimes:
        return NO_ABSENCES
    after = undecided_after(task)
    return Absences(
        pauses,
        [d for d in situation.downtimes if d.ended_at > after],
        catchup=task.catchup,
        window=timedelta(seconds=task.catchup_window_seconds),
    )


def _rest(task: Timed) -> Plan:
    """Leave a task alone that no clock starts now; what falls into its rest stays undecided."""
    still = Advance(task.task_id, None, task.decided_until, snoozed=task.snoozed_to is not None)
    return Plan(task, still, work=[], skipped=[], completed=False)


def _is_due(plan: Plan, now: datetime) -> bool:
    looks = (plan.advance.next_run_at, plan.advance.look_at)
    return any(at is not None and at <= now for at in looks)


async def _write_each(tx: Tx, plans: Sequence[Plan], situation: _Situation) -> dict[UUID, str]:
    """Write plans apart; returns those that PostgreSQL refuses, with the reason."""
    refused: dict[UUID, str] = {}
    for alone in plans:
        try:
            async with tx.transaction():
                await _write(tx, [alone], situation)
        except (DataError, IntegrityError) as error:
            log.exception("tick.refused", task_id=str(alone.task.task_id))
            refused[alone.task.task_id] = f"its run can not be stored: {error}"
    return refused


async def _write(tx: Tx, plans: Sequence[Plan], situation: _Situation) -> None:
    now = situation.now
    overtaken = [
        p.task.task_id
        for p in plans
        if p.work and p.task.overlap == "cancel_running" and p.task.task_id in situation.live
    ]
    if overtaken:
        await queue.cancel(
            tx, task_ids=overtaken, reason="the next occurrence of the task was due", now=now
        )
    await queue.enqueue(tx, [work for p in plans for work in p.work], now=now)
    await ledger.record(tx, [skipped for p in plans for skipped in p.skipped], now=now)
    await schedules.advance(tx, [p.advance for p in plans])
    completed = [p.task.task_id for p in plans if p.completed]
    await schedules.end_tasks(tx, completed, status="completed", now=now)
    events = [event for p in plans for event in _events(p)]
    await journal.emit(tx, events, now=now)


def _events(plan: Plan) -> list[Event]:
    events = ledger.announce(plan.skipped)
    if plan.completed:
        events.append(Event("task.completed", {"status": "completed"}, plan.task.task_id))
    return events


async def _contain(tx: Tx, broken: Mapping[UUID, str], *, now: datetime) -> None:
    """Pause tasks that would stop every tick from now on."""
    if not broken:
        return
    await schedules.end_tasks(tx, list(broken), status="paused", now=now)
    await schedules.pause(tx, list(broken), now=now)
    events = [
        Event("task.paused", {"status": "paused", "reason": reason}, task_id)
        for task_id, reason in broken.items()
    ]
    await journal.emit(tx, events, now=now)
