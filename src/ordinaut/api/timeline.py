"""A task in time: what became of its occurrences, what comes, and runs out of turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from ordinaut.api import quotas
from ordinaut.api.dependencies import Work
from ordinaut.api.lifecycle import amended, compiled, note
from ordinaut.api.schemas.tasks import RunNow
from ordinaut.api.schemas.timeline import (
    Backfill,
    BackfillResult,
    Difference,
    Moved,
    OccurrenceOut,
    OccurrencesOut,
    OccurrencesQuery,
)
from ordinaut.engine.schedule import CompiledSchedule
from ordinaut.errors import Conflict, InvalidInput
from ordinaut.model import Schedule, Task
from ordinaut.store import backfill as store
from ordinaut.store import ledger, queue, runs, schedules, tasks
from ordinaut.store.database import Tx
from ordinaut.store.runs import Run
from ordinaut.store.schedules import Timed
from ordinaut.store.tasks import TaskRecord

PAST: Final = timedelta(days=7)
DIFFERENCE_OVER: Final = timedelta(days=90)
MAX_DIFFERENCE: Final = 1000  # occurrences of each kind that are listed


async def run_now(tx: Tx, work: Work, record: TaskRecord, body: RunNow) -> Run:
    """Enqueue a run out of turn and return it; the schedule goes on as it was."""
    task = record.task
    if task.status == "canceled":
        raise Conflict("a canceled task can not be run")
    await quotas.runs(work, adding=1)
    [timed] = await schedules.load(tx, [task.id])
    made = timed.run(
        "run_now",
        run_at=body.run_at or work.now,
        payload=None if body.params is None else {"params": body.params},
        priority=body.priority,
    )
    await queue.enqueue(tx, [made], wake=True, now=work.now)
    await note(tx, work, "run_now", task, after={"run_id": str(made.id)})
    return await runs.get(tx, made.id)


async def upcoming(tx: Tx, task: Task, *, after: datetime, count: int) -> list[datetime]:
    """Return the instants at which ``task`` would fire next."""
    schedule = await compiled(tx, task.schedule)
    return [one.at for one in islice(schedule.iterate(after), count)]


async def occurrences(tx: Tx, work: Work, task_id: UUID, query: OccurrencesQuery) -> OccurrencesOut:
    """Return what became of past occurrences and when the next ones come."""
    record = await tasks.get(tx, task_id, owner=work.owner)
    now = work.now
    until = query.until or now
    past = await ledger.occurrences(
        tx, task_id, after=query.after or until - PAST, until=until, limit=query.limit
    )
    [timed] = await schedules.load(tx, [task_id])
    fires = record.task.status == "active"
    future = await _future(tx, timed, count=query.future) if fires else []
    items = [OccurrenceOut.model_validate(entry) for entry in reversed(past)]
    items += [OccurrenceOut(scheduled_for=at, verdict="upcoming") for at in future]
    return OccurrencesOut(items=items)


async def backfill(tx: Tx, work: Work, task_id: UUID, body: Backfill) -> BackfillResult:
    """Enqueue runs for past occurrences of a task, by default for those without one."""
    record = await tasks.lock_one(tx, task_id, owner=work.owner)
    if record.task.status == "canceled":
        raise Conflict("a canceled task can not be run")
    if body.until < body.since:
        raise InvalidInput.at("until", "lies before since")
    [timed] = await schedules.load(tx, [task_id])
    made = await store.backfill(
        tx,
        timed,
        await compiled(tx, timed.schedule),
        since=body.since,
        until=body.until,
        limit=body.limit,
        now=work.now,
        again=body.again,
    )
    await quotas.runs(work, adding=len(made.run_ids))
    await queue.hint(tx)
    asked = {"since": body.since.isoformat(), "until": body.until.isoformat()}
    await note(tx, work, "backfill", record.task, after=asked | {"runs": len(made.run_ids)})
    return BackfillResult(
        run_ids=made.run_ids, occurrences=made.occurrences, go_on_after=made.go_on_after
    )


async def difference(
    tx: Tx, work: Work, record: TaskRecord, given: Mapping[str, Any]
) -> Difference:
    """Say which occurrences of the next 90 days a change would add and remove."""
    after = await amended(tx, work, record.task, given)
    now = work.now
    old = await _instants(tx, record.task.schedule, now)
    new = await _instants(tx, after.schedule, now)
    moved = _moved(set(old) - set(new), set(new) - set(old), zone=after.schedule.timezone)
    return Difference(
        until=now + DIFFERENCE_OVER,
        added=sorted(set(new) - set(old) - {pair.after for pair in moved}),
        removed=sorted(set(old) - set(new) - {pair.before for pair in moved}),
        moved=moved,
        kept=len(set(old) & set(new)),
        complete=max(len(old), len(new)) < MAX_DIFFERENCE,
        next_run_at=after.next_run_at,
    )


def _moved(gone: set[datetime], come: set[datetime], *, zone: str) -> list[Moved]:
    """Pair what goes and what comes on the same local day, in the order of time."""
    days: dict[date, tuple[list[datetime], list[datetime]]] = defaultdict(lambda: ([], []))
    for which, instants in enumerate((gone, come)):
        for instant in sorted(instants):
            days[instant.astimezone(ZoneInfo(zone)).date()][which].append(instant)
    return [
        Moved(before=before, after=after)
        for _, (left, right) in sorted(days.items())
        for before, after in zip(left, right, strict=False)
    ]


async def _future(tx: Tx, timed: Timed, *, count: int) -> list[datetime]:
    schedule = await compiled(tx, timed.schedule)
    left = count if timed.max_runs is None else min(count, timed.max_runs - timed.fired)
    coming = [one.at for one in islice(schedule.iterate(timed.decided_until), max(left, 0))]
    if timed.snoozed_to is not None:
        coming = sorted([*coming, timed.snoozed_to])[:count]
    return coming


async def _instants(tx: Tx, schedule: Schedule, now: datetime) -> list[datetime]:
    ready: CompiledSchedule = await compiled(tx, schedule)
    until = now + DIFFERENCE_OVER
    within = takewhile(lambda one: one.at <= until, ready.iterate(now))
    return [one.at for one in islice(within, MAX_DIFFERENCE)]
