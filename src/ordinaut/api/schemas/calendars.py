"""Calendars as they are sent and answered."""

from __future__ import annotations

from typing import Annotated, TypeAlias
from uuid import UUID

from pydantic import StringConstraints

from ordinaut.api.schemas.base import Answer, Body, Instant, JsonObject

CalendarName: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)
]


class CalendarPut(Body):
    """What a calendar says: ``dates``, ``ranges``, ``weekdays`` and ``ics`` in any combination."""

    definition: JsonObject


class CalendarIn(CalendarPut):
    """A new calendar."""

    name: CalendarName


class CalendarOut(Answer):
    """A calendar as it is stored."""

    id: UUID
    name: str
    definition: JsonObject
    version: int
    created_by: UUID
    created_at: Instant
    updated_at: Instant
