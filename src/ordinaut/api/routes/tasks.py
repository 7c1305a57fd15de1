"""Tasks: create, find, change and delete them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Response, status

from ordinaut.api import lifecycle
from ordinaut.api.dependencies import (
    Connection,
    IfMatch,
    Parts,
    TasksRead,
    TasksWrite,
    Tx,
    cursor_id,
    paged,
)
from ordinaut.api.routing import PROBLEMS, router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.tasks import (
    TaskBatch,
    TaskIn,
    TaskOut,
    TaskPatch,
    TaskQuery,
    Validated,
)
from ordinaut.errors import InvalidInput
from ordinaut.store import tasks
from ordinaut.store.tasks import Filter, TaskRecord

routes = router("/tasks", "tasks")


@routes.post("", status_code=status.HTTP_201_CREATED, responses={200: {"model": TaskOut}})
async def create(
    body: TaskIn, caller: TasksWrite, tx: Connection, parts: Parts, response: Response
) -> TaskOut:
    """Store a task. 200 with the stored one when this repeats it within its dedupe window."""
    record, new = await lifecycle.create(tx, parts, body, caller=caller)
    if not new:
        response.status_code = status.HTTP_200_OK
    response.headers["Location"] = f"/tasks/{record.task.id}"
    return tagged(response, record)


@routes.post("/batch", status_code=status.HTTP_201_CREATED)
async def create_batch(body: TaskBatch, caller: TasksWrite, tx: Tx, parts: Parts) -> Page[TaskOut]:
    """Store all of the tasks, or none of them when one is not right."""
    records = await lifecycle.create_batch(tx, parts, body.tasks, caller=caller)
    return Page[TaskOut].model_construct(items=[TaskOut.of(record) for record in records])


@routes.post("/validate")
async def validate(body: TaskIn, caller: TasksWrite, tx: Connection, parts: Parts) -> Validated:
    """Check a task as if it were to be stored, and store nothing."""
    task = await lifecycle.validated(tx, parts, body, caller=caller)
    upcoming = await lifecycle.upcoming(tx, task, count=5)
    return Validated(next_run_at=task.next_run_at, occurrences=upcoming)


@routes.get("")
async def find(
    query: Annotated[TaskQuery, Query()], caller: TasksRead, tx: Connection
) -> Page[TaskOut]:
    """Return tasks, newest first."""
    found = await tasks.page(
        tx, _filter(query, caller.owner), limit=query.limit + 1, before=cursor_id(query.cursor)
    )
    page, following = paged(found, limit=query.limit, place=lambda record: record.task.id)
    return Page(items=[TaskOut.of(record) for record in page], next_cursor=following)


@routes.get("/{task_id}", responses=PROBLEMS)
async def get(task_id: UUID, caller: TasksRead, tx: Connection, response: Response) -> TaskOut:
    """Return a task with its next occurrence and its last run."""
    return tagged(response, await tasks.get(tx, task_id, owner=caller.owner))


@routes.patch("/{task_id}")
async def patch(
    task_id: UUID,
    body: TaskPatch,
    caller: TasksWrite,
    tx: Tx,
    parts: Parts,
    version: IfMatch,
    response: Response,
) -> TaskOut:
    """Change the given fields; ``If-Match`` refuses to change what somebody else changed."""
    record = await tasks.lock_one(tx, task_id, owner=caller.owner, version=version)
    given: dict[str, Any] = body.model_dump(exclude_unset=True)
    return tagged(response, await lifecycle.amend(tx, parts, record, given, actor=caller.actor))


@routes.put("/{task_id}")
async def put(
    task_id: UUID,
    body: TaskIn,
    caller: TasksWrite,
    tx: Tx,
    parts: Parts,
    version: IfMatch,
    response: Response,
) -> TaskOut:
    """Replace a task; what is left out gets its default."""
    record = await tasks.lock_one(tx, task_id, owner=caller.owner, version=version)
    given = {name: getattr(body, name) for name in TaskIn.model_fields}
    return tagged(response, await lifecycle.amend(tx, parts, record, given, actor=caller.actor))


@routes.delete("/{task_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(task_id: UUID, caller: TasksWrite, tx: Tx, parts: Parts, version: IfMatch) -> None:
    """Take a task out of sight and cancel its queued runs; its history stays."""
    record = await tasks.lock_one(tx, task_id, owner=caller.owner, version=version)
    await lifecycle.delete(tx, record, actor=caller.actor, now=parts.clock.now())


def tagged(response: Response, record: TaskRecord) -> TaskOut:
    """Write a task, with its version as the ETag."""
    response.headers["ETag"] = f'"{record.task.version}"'
    return TaskOut.of(record)


def _filter(query: TaskQuery, owner: UUID | None) -> Filter:
    return Filter(owner, query.status, query.schedule_kind, _labels(query.label), query.q)


def _labels(given: list[str]) -> dict[str, str] | None:
    if not given:
        return None
    if not all(":" in text for text in given):
        raise InvalidInput.at("label", "write key:value")
    return {text.partition(":")[0]: text.partition(":")[2] for text in given}
