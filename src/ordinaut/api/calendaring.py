"""What callers do to calendars: a change moves the tasks that exclude them."""

from __future__ import annotations

from dataclasses import replace

from ordinaut.api.dependencies import Work
from ordinaut.api.lifecycle import compiled
from ordinaut.engine.calendar import parse_calendar
from ordinaut.errors import Conflict, InvalidInput
from ordinaut.model import Json
from ordinaut.store import audit, calendars, schedules
from ordinaut.store.calendars import CalendarRecord
from ordinaut.store.database import Tx


async def create(tx: Tx, work: Work, name: str, definition: Json) -> CalendarRecord:
    """Store a new calendar."""
    check(name, definition)
    made = await calendars.create(
        tx, name, definition=definition, agent_id=work.agent.id, now=work.now
    )
    await _note(tx, work, "create", name, after=definition)
    return made


async def change(tx: Tx, work: Work, name: str, definition: Json) -> CalendarRecord:
    """Replace what a calendar says, and compute its tasks' next occurrences anew."""
    check(name, definition)
    users = await calendars.lock_users(tx, name)
    before = (await calendars.get(tx, name)).definition
    made = await calendars.replace(tx, name, definition=definition, owner=work.owner, now=work.now)
    # What is paused or snoozed has its next look elsewhere, and the tick reads calendars afresh.
    timed = [t for t in await schedules.load(tx, users) if t.active and t.snoozed_to is None]
    nexts = {}
    for one in timed:
        following = (await compiled(tx, one.schedule)).next(one.decided_until)
        nexts[one.task_id] = None if following is None else following.at
    await schedules.recomputed(tx, nexts)
    await schedules.hint(tx)
    await _note(tx, work, "update", name, before=before, after=definition)
    return made


async def delete(tx: Tx, work: Work, name: str) -> None:
    """Remove a calendar that no task excludes any more."""
    users = await calendars.lock_users(tx, name)
    if users:
        raise Conflict(f"{len(users)} tasks exclude the calendar, such as {users[0]}")
    before = (await calendars.get(tx, name)).definition
    await calendars.delete(tx, name, owner=work.owner)
    await _note(tx, work, "delete", name, before=before)


def check(name: str, definition: Json) -> None:
    """Raise :class:`InvalidInput` that points into ``definition``."""
    try:
        parse_calendar(name, definition)
    except InvalidInput as error:
        problems = tuple(replace(p, path=_within(p.path)) for p in error.problems)
        raise InvalidInput(error.message, problems=problems) from None


def _within(path: str) -> str:
    return path if path == "definition" else f"definition.{path}"


async def _note(
    tx: Tx, work: Work, action: str, name: str, *, before: Json = None, after: Json = None
) -> None:
    await audit.record(
        tx,
        work.actor,
        action=f"calendar.{action}",
        entity="calendar",
        entity_id=name,
        before=before,
        after=after,
    )
