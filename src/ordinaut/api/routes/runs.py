"""Runs: what happened, and stopping or repeating it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import Query, status

from ordinaut.api.dependencies import (
    Connection,
    Parts,
    RunsRead,
    RunsWrite,
    Tx,
    cursor_id,
    paged,
)
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.runs import RunDetail, RunOut, RunQuery, StatsOut, StatsQuery
from ordinaut.errors import Conflict
from ordinaut.store import audit, queue, runs
from ordinaut.store.runs import Filter

routes = router("/runs", "runs")

STATS_OVER: Final = timedelta(days=1)


@routes.get("")
async def find(
    query: Annotated[RunQuery, Query()], caller: RunsRead, tx: Connection
) -> Page[RunOut]:
    """Return runs, newest first: those that are queued or running and those that ended."""
    wanted = Filter(caller.owner, query.task_id, tuple(query.status), query.trigger)
    found = await runs.page(tx, wanted, limit=query.limit + 1, before=cursor_id(query.cursor))
    page, following = paged(found, limit=query.limit, place=lambda run: run.id)
    return Page(items=[RunOut.of(run) for run in page], next_cursor=following)


@routes.get("/stats")
async def stats(
    query: Annotated[StatsQuery, Query()], caller: RunsRead, tx: Connection, parts: Parts
) -> StatsOut:
    """Count runs by status; durations and lateness are of those that ended since then."""
    since = query.since or parts.clock.now() - STATS_OVER
    found = await runs.stats(tx, since=since, owner=caller.owner, task_id=query.task_id)
    return StatsOut(
        since=since, counts=found.counts, duration=found.duration, lateness=found.lateness
    )


@routes.get("/{run_id}")
async def get(run_id: UUID, caller: RunsRead, tx: Connection) -> RunDetail:
    """Return a run with its steps."""
    run = await runs.get(tx, run_id, owner=caller.owner)
    return RunDetail.with_steps(run, await runs.steps(tx, run_id))


@routes.post("/{run_id}/cancel", status_code=status.HTTP_202_ACCEPTED)
async def cancel(run_id: UUID, caller: RunsWrite, tx: Tx) -> RunOut:
    """End a queued or waiting run at once, and ask the worker of a running one to stop."""
    run = await runs.get(tx, run_id, owner=caller.owner)
    if run.finished_at is not None:
        raise Conflict(f"the run has {run.status}")
    await queue.cancel(tx, run_ids=[run_id])
    await audit.record(tx, caller.actor, action="run.cancel", entity="run", entity_id=run_id)
    return RunOut.of(await runs.get(tx, run_id))


@routes.post("/{run_id}/retry", status_code=status.HTTP_202_ACCEPTED)
async def retry(run_id: UUID, caller: RunsWrite, tx: Tx) -> RunOut:
    """Queue a run that failed, was canceled or died once more, from its last checkpoint."""
    run = await runs.get(tx, run_id, owner=caller.owner)
    if run.status not in ("failed", "canceled", "dead"):
        raise Conflict(f"a run that is {run.status} can not be retried")
    await queue.redrive(tx, run_id)
    await queue.hint(tx)
    await audit.record(tx, caller.actor, action="run.retry", entity="run", entity_id=run_id)
    return RunOut.of(await runs.get(tx, run_id))
