"""Calendars that tasks may exclude."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, status

from ordinaut.api import calendaring
from ordinaut.api.dependencies import TasksRead, TasksWrite
from ordinaut.api.paging import cursor_id, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page, PageQuery
from ordinaut.api.schemas.calendars import CalendarIn, CalendarName, CalendarOut, CalendarPut
from ordinaut.store import calendars

routes = router("/calendars", "calendars")


@routes.post("", status_code=status.HTTP_201_CREATED)
async def create(body: CalendarIn, work: TasksWrite) -> CalendarOut:
    """Store a calendar."""
    async with work.transaction() as tx:
        made = await calendaring.create(tx, work, body.name, body.definition)
    return CalendarOut.model_validate(made)


@routes.get("")
async def find(query: Annotated[PageQuery, Query()], work: TasksRead) -> Page[CalendarOut]:
    """Return calendars, newest first; everybody may use everybody's."""
    before = cursor_id(query.cursor)
    async with work.connection() as tx:
        found = await calendars.page(tx, limit=query.limit + 1, before=before)
    page, following = paged(found, limit=query.limit, place=lambda one: one.id)
    return Page(items=[CalendarOut.model_validate(one) for one in page], next_cursor=following)


@routes.get("/{name}")
async def get(name: CalendarName, work: TasksRead) -> CalendarOut:
    """Return a calendar."""
    async with work.connection() as tx:
        return CalendarOut.model_validate(await calendars.get(tx, name))


@routes.put("/{name}")
async def put(name: CalendarName, body: CalendarPut, work: TasksWrite) -> CalendarOut:
    """Replace what a calendar says; the tasks that exclude it move with it."""
    async with work.transaction() as tx:
        changed = await calendaring.change(tx, work, name, body.definition)
    return CalendarOut.model_validate(changed)


@routes.delete("/{name}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(name: CalendarName, work: TasksWrite) -> None:
    """Remove a calendar that no task excludes."""
    async with work.transaction() as tx:
        await calendaring.delete(tx, work, name)
