"""The cluster's housekeeping: jobs that the leader alone does.

APScheduler's job store keeps the name of each function, nothing else. So a job takes no
argument, and finds what it works with in :data:`HOLDING`, which the daemon sets when it becomes
the leader. Each job can be cut off anywhere and be done again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ordinaut.clock import Clock
from ordinaut.config import Settings
from ordinaut.engine.calendar import Calendar
from ordinaut.engine.schedule import compile_schedule
from ordinaut.errors import Conflict, InvalidSchedule
from ordinaut.model import NOBODY, Event
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.plan import undecided_after
from ordinaut.store import chain, journal, leaders, queue, schedules, upkeep, workers
from ordinaut.store.database import Database, Tx
from ordinaut.store.schedules import Timed
from ordinaut.telemetry import emit, logger

DAYS_AHEAD = 7  # partitions that are prepared: as long as a cluster may be without a leader
STALL = timedelta(seconds=10)
BATCH = 1_000  # rows of one transaction

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Holding:
    """The leader's right to do housekeeping, and what it does it with."""

    db: Database
    settings: Settings
    clock: Clock
    epoch: int

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Open a transaction that counts only while nobody else has become the leader."""
        async with self.db.transaction() as tx:
            await leaders.guard(tx, stall=STALL)
            if not await leaders.confirm(tx, "housekeeping", epoch=self.epoch):
                raise Conflict(f"the housekeeping of epoch {self.epoch} has ended")
            yield tx


HOLDING: ContextVar[Holding] = ContextVar("HOLDING")


async def expire_leases() -> None:
    """Take runs from workers that stopped renewing."""
    holding = HOLDING.get()
    while True:
        async with holding.transaction() as tx:
            expired = await queue.expire(tx, limit=BATCH)
        if expired.requeued:
            async with holding.db.connection() as tx:
                await queue.hint(tx)
        if count := expired.requeued + expired.buried:
            emit("janitor.expired", requeued=expired.requeued, buried=expired.buried)
        if count < BATCH:
            return


async def find_lost_workers() -> None:
    """Say which processes stopped reporting without a word."""
    async with HOLDING.get().transaction() as tx:
        lost = await workers.mark_lost(tx)
    if lost:
        log.warning("janitor.lost", workers=[str(worker_id) for worker_id in lost])


async def seal_audit_log() -> None:
    """Take what was written into the audit log into its chain."""
    holding = HOLDING.get()
    key = chain.key_of(holding.settings)
    while True:
        async with holding.transaction() as tx:
            sealed = await chain.seal(tx, key)
        if sealed < chain.BATCH:
            return


async def prepare_partitions() -> None:
    """Make the daily partitions before their days begin."""
    holding = HOLDING.get()
    today = holding.clock.now().astimezone(UTC).date()
    missed = await upkeep.ensure_partitions(holding.db, first=today, days=DAYS_AHEAD)
    if missed:
        log.warning("janitor.no_partition", days=[str(day) for day in missed])


async def drop_history() -> None:
    """Drop the days that are older than the retention, and rows that nobody needs."""
    holding = HOLDING.get()
    now = holding.clock.now()
    keep_runs = timedelta(days=holding.settings.retention_days)
    keep_events = timedelta(days=holding.settings.event_retention_days)
    for table in upkeep.RUN_TABLES:
        async with holding.transaction() as tx:
            _dropped(await upkeep.drop_partitions(tx, table, before=(now - keep_runs).date()))
    async with holding.transaction() as tx:
        oldest = _midnight(now - keep_events)
        if await upkeep.is_read(tx, before=oldest):
            _dropped(await upkeep.drop_partitions(tx, "event", before=oldest.date()))
    while True:
        async with holding.transaction() as tx:
            dropped = await upkeep.drop_brief(tx, now=now, limit=BATCH)
        if dropped < BATCH:
            break
    async with holding.transaction() as tx:
        await upkeep.sweep(
            tx,
            now=now,
            keep_runs=keep_runs,
            keep_events=keep_events,
            keep_deliveries=timedelta(days=holding.settings.webhook_retention_days),
        )


async def recompute_schedules() -> None:
    """Compute the next occurrences again that were computed with other time zone data."""
    holding = HOLDING.get()
    calendars, after = Calendars(), NOBODY
    while True:
        async with holding.transaction() as tx:
            ids = await schedules.stale(tx, after=after, limit=BATCH)
            tasks = await schedules.load(tx, ids)
            known = await calendars.named(tx, (n for t in tasks for n in t.schedule.exclude))
            await _recompute(tx, tasks, known)
        if len(ids) < BATCH:
            return
        after = ids[-1]


async def _recompute(tx: Tx, tasks: list[Timed], calendars: dict[str, Calendar]) -> None:
    nexts = {task.task_id: _next(task, calendars) for task in tasks}
    await schedules.recomputed(tx, nexts)
    drifted = [task for task in tasks if nexts[task.task_id] != task.next_run_at]
    await journal.emit(tx, [_drift(task, nexts[task.task_id]) for task in drifted])
    if drifted:
        log.warning("janitor.drifted", tasks=len(drifted), tzdata=schedules.tzdata_version())


def _next(task: Timed, calendars: dict[str, Calendar]) -> datetime | None:
    try:
        schedule = compile_schedule(task.schedule, calendars=calendars)
        occurrence = schedule.next(undecided_after(task))
    except InvalidSchedule:
        return task.next_run_at  # the tick finds it then, and pauses the task with the reason
    nexts = [occurrence.at if occurrence else None, task.snoozed_to]
    return min((at for at in nexts if at is not None), default=None)


def _drift(task: Timed, new: datetime | None) -> Event:
    data = {
        "old": task.next_run_at and task.next_run_at.isoformat(),
        "new": new and new.isoformat(),
        "tzdata": schedules.tzdata_version(),
    }
    return Event("task.drifted", data, task.task_id)


def _dropped(names: list[str]) -> None:
    if names:
        log.info("janitor.dropped", partitions=names)


def _midnight(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


# What the leader's job store holds: the name of each job, and how often it is done.
JOBS = tuple(
    (f"{__name__}:{job.__name__}", every)
    for job, every in (
        (expire_leases, timedelta(seconds=2)),
        (find_lost_workers, timedelta(seconds=5)),
        (seal_audit_log, timedelta(seconds=5)),
        (prepare_partitions, timedelta(hours=1)),
        (recompute_schedules, timedelta(hours=1)),
        (drop_history, timedelta(hours=1)),
    )
)
