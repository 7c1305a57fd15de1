"""What is asked about a schedule or a template, without storing anything."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ordinaut.api.schemas.base import Answer, Body, Instant, JsonObject
from ordinaut.api.schemas.tasks import Expression, ScheduleFields
from ordinaut.engine.explain import Language
from ordinaut.model import Json

MAX_PREVIEW = 1000


class Preview(ScheduleFields):
    """A schedule, and from when on how many of its occurrences are wanted."""

    after: Instant | None = None
    count: Annotated[int, Field(ge=1, le=MAX_PREVIEW)] = 10


class OccurrenceOut(Answer):
    """One occurrence: in UTC, as the clock shows it in the zone, and what is special about it."""

    at: Instant
    local: str
    note: str


class PreviewOut(Answer):
    """The occurrences asked for; ``finished`` when no more follow them."""

    occurrences: list[OccurrenceOut]
    finished: bool


class Explain(ScheduleFields):
    """A schedule that is to be said in words."""

    language: Language = "en"


class Explanation(Answer):
    """A schedule in words."""

    text: str


class Evaluate(Body):
    """A value with templates, or a condition, and what they are evaluated over."""

    value: Json = None
    condition: Expression | None = None
    context: JsonObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_two(self) -> Evaluate:
        if ("value" in self.model_fields_set) == (self.condition is not None):
            raise ValueError("give either value or condition")
        return self


class Evaluated(Answer):
    """``value`` with its templates resolved, or the ``result`` of the condition."""

    value: Json = None
    result: Json = None
