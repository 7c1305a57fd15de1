"""What callers do to condition tasks, as far as their probes are concerned."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.model import Catchup, Json, Task
from ordinaut.store import probes
from ordinaut.store.database import Tx
from ordinaut.store.probes import Watch

# Beyond the time of the call: to start it, to write down what it said, to wait for PostgreSQL.
MARGIN: Final = timedelta(seconds=30)


async def begin(tx: Tx, tasks: Iterable[Task], *, now: datetime) -> None:
    """Poll for those of some new tasks that are of kind ``condition``."""
    new = {task.id: _watch(task, now) for task in tasks if task.schedule.kind == "condition"}
    if new:
        await probes.watch(tx, new)


async def follow(tx: Tx, before: Task, after: Task, *, now: datetime) -> None:
    """Do what a change asks for: another condition is polled with nothing remembered."""
    if after.schedule.kind == "condition":
        anew = _condition(before) != _condition(after)
        same_probe = before.payload.get("probe") == after.payload.get("probe")
        if anew or not same_probe or before.schedule != after.schedule:
            await probes.watch(tx, {after.id: _watch(after, now)}, anew=anew)
    elif before.schedule.kind == "condition":
        await probes.forget(tx, after.id)


async def resume(tx: Tx, task: Task, *, catchup: Catchup | None, now: datetime) -> None:
    """Poll again; ``none`` leaves out an edge that fell into the pause."""
    if task.schedule.kind == "condition":
        disarm = (catchup or task.catchup) == "none"
        await probes.wake(tx, task.id, next_at=_first(task, now), disarm=disarm)


def _condition(task: Task) -> Json:
    """Return what is asked, and of whom; not how often, nor what is made of the answer."""
    probe = task.payload.get("probe") or {}
    when = task.schedule
    return [when.kind, when.expr, probe.get("uses"), probe.get("with")]


def _watch(task: Task, now: datetime) -> Watch:
    probe = parse_pipeline(task.payload, registry=None).probe
    assert probe is not None  # it was checked with the task
    patience = timedelta(seconds=probe.call.timeout_seconds or 0) + MARGIN
    return Watch(probe.every, patience, _first(task, now) if task.status == "active" else None)


def _first(task: Task, now: datetime) -> datetime:
    starts_at = task.schedule.starts_at
    return now if starts_at is None else max(now, starts_at)
