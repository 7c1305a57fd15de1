"""What is done to a task: run it, pause, resume, snooze and cancel it."""

from __future__ import annotations

from uuid import UUID

from fastapi import Response, status

from ordinaut.api import lifecycle
from ordinaut.api.dependencies import Parts, TasksRun, TasksWrite, Tx
from ordinaut.api.routes.tasks import tagged
from ordinaut.api.routing import router
from ordinaut.api.schemas.runs import RunOut
from ordinaut.api.schemas.tasks import Bulk, BulkResult, Resume, RunNow, Snooze, TaskOut
from ordinaut.store import tasks

routes = router("/tasks", "tasks")


@routes.post("/bulk")
async def bulk(body: Bulk, caller: TasksWrite, tx: Tx, parts: Parts) -> BulkResult:
    """Pause, resume or cancel all tasks that fit."""
    return await lifecycle.bulk(tx, body, caller=caller, now=parts.clock.now())


@routes.post("/{task_id}/run_now", status_code=status.HTTP_202_ACCEPTED)
async def run_now(
    task_id: UUID, caller: TasksRun, tx: Tx, parts: Parts, body: RunNow | None = None
) -> RunOut:
    """Enqueue a run out of turn; the schedule goes on as it was."""
    record = await tasks.get(tx, task_id, owner=caller.owner)
    now = parts.clock.now()
    run = await lifecycle.run_now(tx, record, body or RunNow(), actor=caller.actor, now=now)
    return RunOut.of(run)


@routes.post("/{task_id}/pause")
async def pause(
    task_id: UUID, caller: TasksWrite, tx: Tx, parts: Parts, response: Response
) -> TaskOut:
    """Let nothing of the task fire until it is resumed; runs that are queued go on."""
    record = await tasks.lock_one(tx, task_id, owner=caller.owner)
    await lifecycle.pause(tx, record, actor=caller.actor, now=parts.clock.now())
    return tagged(response, await tasks.get(tx, task_id))


@routes.post("/{task_id}/resume")
async def resume(
    task_id: UUID,
    caller: TasksWrite,
    tx: Tx,
    parts: Parts,
    response: Response,
    body: Resume | None = None,
) -> TaskOut:
    """Let a paused task fire again; ``catchup`` decides on what fell into the pause."""
    record = await tasks.lock_one(tx, task_id, owner=caller.owner)
    catchup = body.catchup if body else None
    now = parts.clock.now()
    await lifecycle.resume(tx, record, catchup=catchup, actor=caller.actor, now=now)
    return tagged(response, await tasks.get(tx, task_id))


@routes.post("/{task_id}/snooze")
async def snooze(
    task_id: UUID, body: Snooze, caller: TasksWrite, tx: Tx, parts: Parts, response: Response
) -> TaskOut:
    """Move exactly the next occurrence; the ones after it keep their times."""
    record = await tasks.lock_one(tx, task_id, owner=caller.owner)
    await lifecycle.snooze(tx, record, body, actor=caller.actor, now=parts.clock.now())
    return tagged(response, await tasks.get(tx, task_id))


@routes.post("/{task_id}/cancel")
async def cancel(
    task_id: UUID, caller: TasksWrite, tx: Tx, parts: Parts, response: Response
) -> TaskOut:
    """End the task for good and cancel its runs."""
    record = await tasks.lock_one(tx, task_id, owner=caller.owner)
    await lifecycle.cancel(tx, record, actor=caller.actor, now=parts.clock.now())
    return tagged(response, await tasks.get(tx, task_id))
