"""From what was sent to a task that can be stored: everything that needs no run is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from ordinaut.api.schemas.tasks import ScheduleFields, TaskIn
from ordinaut.api.services import Services
from ordinaut.engine.calendar import Calendar
from ordinaut.engine.windows import parse_window
from ordinaut.errors import InvalidInput, InvalidPipeline, InvalidSchedule
from ordinaut.model import Json, Schedule, Task, uuid7

SCHEDULE_FIELDS: Final = frozenset(ScheduleFields.model_fields)
OWN_FIELDS: Final = tuple(name for name in TaskIn.model_fields if name not in SCHEDULE_FIELDS)
NAMED: Final = {"schedule_kind": "kind", "schedule_expr": "expr"}


def draft(
    body: TaskIn, when: Schedule, *, owner: UUID, now: datetime, following: datetime | None = None
) -> Task:
    """Return the task that ``body`` describes, not checked, with its first occurrence."""
    given = vars(body)
    return Task(
        id=uuid7(),
        version=1,
        schedule=when,
        created_by=owner,
        created_at=now,
        updated_at=now,
        next_run_at=following,
        **{name: given[name] for name in OWN_FIELDS},
    )


def schedule(body: ScheduleFields, *, zone: str, anchor: datetime) -> Schedule:
    """Return the schedule that ``body`` describes; ``zone`` where it names none."""
    return Schedule(
        body.schedule_kind,
        body.schedule_expr,
        body.timezone or zone,
        anchor,
        body.starts_at,
        body.ends_at,
        body.dst_gap,
        body.dst_fold,
        tuple(body.exclude),
        body.on_excluded,
    )


def amended(task: Task, given: Mapping[str, Any], *, zone: str, now: datetime) -> Task:
    """Return ``task`` with the ``given`` fields of a PATCH; ``null`` clears what may be empty."""
    when = {NAMED.get(n, n): v for n, v in given.items() if n in SCHEDULE_FIELDS}
    if "exclude" in when:
        when["exclude"] = tuple(when["exclude"])
    if "timezone" in when:
        when["timezone"] = when["timezone"] or zone
    own = {name: value for name, value in given.items() if name not in SCHEDULE_FIELDS}
    changed = replace(task, schedule=task.schedule._replace(**when), **own)
    return replace(changed, version=task.version + 1, updated_at=now)


class FirstRun(NamedTuple):
    """When a task fires first, and the secrets that its pipeline names, each with its place."""

    at: datetime | None
    secrets: Mapping[str, str]


def first_run(
    when: Schedule,
    payload: Json,
    *,
    window: Json = None,
    parts: Services,
    calendars: Mapping[str, Calendar],
    now: datetime,
) -> FirstRun:
    """Check a schedule and a pipeline, and return the first occurrence after ``now``.

    Raises :class:`InvalidInput` with every problem of both at once.
    """
    following: datetime | None = None
    named: Mapping[str, str] = {}
    errors: list[InvalidInput] = []
    try:
        _check_window(window, when)
        following = parts.following(when, calendars=calendars, after=now)
        _check_fires(when, following, now)
    except InvalidInput as error:
        errors.append(error)
    try:
        named = checked(when, payload, parts=parts)
    except InvalidInput as error:
        errors.append(error)
    if errors:
        raise _together(errors)
    return FirstRun(following, named)


def checked(when: Schedule, payload: Json, *, parts: Services) -> Mapping[str, str]:
    """Check a pipeline for a kind of schedule; return the secrets it names, each with its place.

    Raises :class:`InvalidInput` with every problem.
    """
    named = parts.check(payload)
    has_probe = payload.get("probe") is not None
    if when.kind != "condition" and has_probe:
        message = f"a task of kind {when.kind} has no probe; only one of kind condition polls"
        raise InvalidPipeline.at("payload.probe", message)
    if when.kind == "condition" and not has_probe:
        message = 'a condition task polls a probe: {"uses": "http.request", "with": …, "every": 60}'
        raise InvalidPipeline.at("payload.probe", message)
    if when.kind == "condition" and when.on_excluded != "skip" and when.exclude:
        message = 'a condition has no time of day that could be kept on another day; use "skip"'
        raise InvalidSchedule.at("on_excluded", message)
    return named


def _check_window(window: Json, when: Schedule) -> None:
    if window is None:
        return
    if when.kind != "event":
        message = f"only tasks of kind event have one, not {when.kind}"
        raise InvalidInput.at("event_window", message)
    parse_window(window)


def _check_fires(when: Schedule, following: datetime | None, now: datetime) -> None:
    if following is not None or when.kind == "event":
        return
    if when.kind == "condition" and (when.ends_at is None or when.ends_at >= now):
        return
    moment = now.isoformat(timespec="seconds")
    message = f"nothing follows after {moment}"
    if when.kind == "once":
        message = f"{when.expr} is in the past: it is {moment}"
    raise InvalidSchedule.at("schedule_expr", message, code="never_fires")


def _together(errors: list[InvalidInput]) -> InvalidInput:
    if len(errors) == 1:
        return errors[0]
    message = "; ".join(error.message for error in errors)
    return InvalidInput(message, problems=tuple(p for e in errors for p in e.problems))
