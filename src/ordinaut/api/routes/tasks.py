"""Tasks: create, find, change and delete them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Response, status

from ordinaut.api import answers, lifecycle, timeline
from ordinaut.api.answers import answer
from ordinaut.api.dependencies import IfMatch, TasksRead, TasksWrite
from ordinaut.api.paging import cursor_id, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas import written
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.tasks import (
    TaskBatch,
    TaskIn,
    TaskOut,
    TaskPatch,
    TaskQuery,
    Validated,
)
from ordinaut.api.schemas.timeline import Difference
from ordinaut.errors import InvalidInput
from ordinaut.store import tasks
from ordinaut.store.tasks import Filter, TaskRecord

routes = router("/tasks", "tasks")

CREATED = status.HTTP_201_CREATED
REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"model": TaskOut, "description": "The task that this one repeats."}
}


@routes.post("", status_code=CREATED, response_model=TaskOut, responses=REPEATED)
async def create(body: TaskIn, work: TasksWrite) -> Response:
    """Store a task; 200 with the stored one when this repeats it within its dedupe window."""
    async with work.connection() as tx:
        record, new = await lifecycle.create(tx, work, body)
    return tagged(record, CREATED if new else 200, location=f"/tasks/{record.task.id}")


@routes.post("/batch", status_code=CREATED, response_model=Page[TaskOut])
async def create_batch(body: TaskBatch, work: TasksWrite) -> Response:
    """Store all of the tasks, or none of them when one is not right."""
    async with work.transaction() as tx:
        records = await lifecycle.create_batch(tx, work, body.tasks)
    items = [written.task(record) for record in records]
    return answer({"items": items, "next_cursor": None}, CREATED)


@routes.post("/validate")
async def validate(body: TaskIn, work: TasksWrite) -> Validated:
    """Check a task as if it were to be stored, and store nothing."""
    async with work.connection() as tx:
        task = await lifecycle.planned(tx, work, lifecycle.draft(work, body))
        coming = await timeline.upcoming(tx, task, after=task.created_at, count=5)
    return Validated(next_run_at=task.next_run_at, occurrences=coming)


@routes.get("", response_model=Page[TaskOut])
async def find(query: Annotated[TaskQuery, Query()], work: TasksRead) -> Response:
    """Return tasks, newest first."""
    wanted = Filter(work.owner, query.status, query.schedule_kind, _labels(query.label), query.q)
    before = cursor_id(query.cursor)
    async with work.connection() as tx:
        found = await tasks.page(tx, wanted, limit=query.limit + 1, before=before)
    page, following = paged(found, limit=query.limit, place=lambda record: record.task.id)
    return answers.page([written.task(record) for record in page], following)


@routes.get("/{task_id}", response_model=TaskOut)
async def get(task_id: UUID, work: TasksRead) -> Response:
    """Return a task with its next occurrence and its last run."""
    async with work.connection() as tx:
        return tagged(await tasks.get(tx, task_id, owner=work.owner))


@routes.patch("/{task_id}", response_model=TaskOut | Difference)
async def patch(
    task_id: UUID, body: TaskPatch, work: TasksWrite, version: IfMatch, dry_run: bool = False
) -> Response:
    """Change the given fields; ``If-Match`` refuses to change what somebody else changed.

    With ``dry_run=true`` nothing is stored: the answer says which occurrences of the next
    90 days would be added and removed.
    """
    given: dict[str, Any] = body.model_dump(exclude_unset=True)
    return await _change(task_id, given, work, version, dry_run=dry_run)


@routes.put("/{task_id}", response_model=TaskOut | Difference)
async def put(
    task_id: UUID, body: TaskIn, work: TasksWrite, version: IfMatch, dry_run: bool = False
) -> Response:
    """Replace a task; what is left out gets its default. ``dry_run`` is that of PATCH."""
    return await _change(task_id, dict(body), work, version, dry_run=dry_run)


@routes.delete("/{task_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(task_id: UUID, work: TasksWrite, version: IfMatch) -> None:
    """Take a task out of sight and cancel its queued runs; its history stays."""
    async with work.transaction() as tx:
        record = await tasks.lock_one(tx, task_id, owner=work.owner, version=version)
        await lifecycle.delete(tx, work, record)


def tagged(record: TaskRecord, status: int = 200, location: str = "") -> Response:
    """Write a task, with its version as the ETag."""
    headers = {"ETag": f'"{record.task.version}"'}
    return answer(
        written.task(record), status, headers | ({"Location": location} if location else {})
    )


async def _change(
    task_id: UUID, given: dict[str, Any], work: TasksWrite, version: int | None, *, dry_run: bool
) -> Response:
    async with work.transaction() as tx:
        record = await tasks.lock_one(tx, task_id, owner=work.owner, version=version)
        if not dry_run:
            return tagged(await lifecycle.amend(tx, work, record, given))
        found = await timeline.difference(tx, work, record, given)
    return answer(found.model_dump())


def _labels(given: list[str]) -> dict[str, str] | None:
    if not given:
        return None
    if not all(":" in text for text in given):
        raise InvalidInput.at("label", "write key:value")
    return {text.partition(":")[0]: text.partition(":")[2] for text in given}
