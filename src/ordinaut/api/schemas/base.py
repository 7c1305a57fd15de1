"""The words that all bodies and answers are made of: strict types, instants, pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

T = TypeVar("T")

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 50
MAX_LABELS: Final = 64

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII
)


def parse_instant(value: object) -> datetime:
    """Read an RFC 3339 instant; without an offset it would be nobody's time."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise ValueError("an RFC 3339 time with offset, such as 2027-03-28T03:30:00+03:00")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"no such time: {error}") from None


class Body(BaseModel):
    """What is sent: unknown fields and wrong types are refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Query(BaseModel):
    """What stands in the query: text that is converted; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """What is answered."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


Instant: TypeAlias = Annotated[
    datetime,
    BeforeValidator(parse_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text: TypeAlias = Annotated[str, StringConstraints(max_length=10_000)]
JsonObject: TypeAlias = dict[str, Any]
Labels: TypeAlias = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=63)],
        Annotated[str, StringConstraints(max_length=255)],
    ],
    Field(max_length=MAX_LABELS),
]


class PageQuery(Query):
    """One page of a list; ``cursor`` is the ``next_cursor`` of the page before."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str, Field(max_length=100)] | None = None


class Page(Answer, Generic[T]):
    """A page of a list; without ``next_cursor`` it is the last."""

    items: list[T]
    next_cursor: str | None = None


class FieldError(Answer):
    """One thing that is wrong with what was sent."""

    path: str
    message: str
    code: str


class Problem(Answer):
    """Why a request was refused (RFC 9457).

    ``position`` is the place in a template or condition that could not be evaluated.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldError] = Field(default_factory=list)
    position: int | None = None
