"""What is done to a task: run it, try it out, pause, resume, snooze and cancel it."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query, Response, status

from ordinaut.api import lifecycle, rehearsal, timeline
from ordinaut.api.answers import answer
from ordinaut.api.dependencies import TasksRead, TasksRun, TasksWrite
from ordinaut.api.routes.tasks import tagged
from ordinaut.api.routing import router
from ordinaut.api.schemas import written
from ordinaut.api.schemas.runs import RunOut
from ordinaut.api.schemas.tasks import Bulk, BulkResult, Resume, RunNow, Snooze, TaskOut
from ordinaut.api.schemas.timeline import (
    Backfill,
    BackfillResult,
    DryRun,
    DryRunOut,
    OccurrencesOut,
    OccurrencesQuery,
)
from ordinaut.store import tasks

routes = router("/tasks", "tasks")


@routes.post("/bulk")
async def bulk(body: Bulk, work: TasksWrite) -> BulkResult:
    """Pause, resume or cancel all tasks that fit."""
    async with work.transaction() as tx:
        return await lifecycle.bulk(tx, work, body)


@routes.post("/{task_id}/run_now", status_code=status.HTTP_202_ACCEPTED, response_model=RunOut)
async def run_now(task_id: UUID, work: TasksRun, body: RunNow | None = None) -> Response:
    """Enqueue a run out of turn; the schedule goes on as it was."""
    async with work.transaction() as tx:
        record = await tasks.get(tx, task_id, owner=work.owner)
        run = await timeline.run_now(tx, work, record, body or RunNow())
    return answer(written.run(run), status.HTTP_202_ACCEPTED, {"Location": f"/runs/{run.id}"})


@routes.post("/{task_id}/pause", response_model=TaskOut)
async def pause(task_id: UUID, work: TasksWrite) -> Response:
    """Let nothing of the task fire until it is resumed; runs that are queued go on."""
    async with work.transaction() as tx:
        await lifecycle.pause(tx, work, await tasks.lock_one(tx, task_id, owner=work.owner))
        return tagged(await tasks.get(tx, task_id))


@routes.post("/{task_id}/resume", response_model=TaskOut)
async def resume(task_id: UUID, work: TasksWrite, body: Resume | None = None) -> Response:
    """Let a paused task fire again; ``catchup`` decides on what fell into the pause."""
    catchup = body.catchup if body else None
    async with work.transaction() as tx:
        record = await tasks.lock_one(tx, task_id, owner=work.owner)
        await lifecycle.resume(tx, work, record, catchup=catchup)
        return tagged(await tasks.get(tx, task_id))


@routes.post("/{task_id}/snooze", response_model=TaskOut)
async def snooze(task_id: UUID, body: Snooze, work: TasksWrite) -> Response:
    """Move exactly the next occurrence; the ones after it keep their times."""
    async with work.transaction() as tx:
        record = await tasks.lock_one(tx, task_id, owner=work.owner)
        await lifecycle.snooze(tx, work, record, body)
        return tagged(await tasks.get(tx, task_id))


@routes.post("/{task_id}/cancel", response_model=TaskOut)
async def cancel(task_id: UUID, work: TasksWrite) -> Response:
    """End the task for good and cancel its runs."""
    async with work.transaction() as tx:
        await lifecycle.cancel(tx, work, await tasks.lock_one(tx, task_id, owner=work.owner))
        return tagged(await tasks.get(tx, task_id))


@routes.get("/{task_id}/occurrences")
async def occurrences(
    task_id: UUID, query: Annotated[OccurrencesQuery, Query()], work: TasksRead
) -> OccurrencesOut:
    """Return what became of past occurrences, and why, and when the next ones come."""
    async with work.connection() as tx:
        return await timeline.occurrences(tx, work, task_id, query)


@routes.post("/{task_id}/backfill", status_code=status.HTTP_202_ACCEPTED)
async def backfill(task_id: UUID, body: Backfill, work: TasksRun) -> BackfillResult:
    """Enqueue runs for past occurrences, by default for those without a run."""
    async with work.transaction() as tx:
        return await timeline.backfill(tx, work, task_id, body)


@routes.post("/{task_id}/dry_run", response_model=DryRunOut)
async def dry_run(task_id: UUID, work: TasksRun, body: DryRun | None = None) -> Response:
    """Render every step; only tools that are declared pure are called."""
    async with work.connection() as tx:
        record = await tasks.get(tx, task_id, owner=work.owner)
    return answer(await rehearsal.rehearse(work, record.task, body or DryRun()))
