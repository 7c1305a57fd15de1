"""A task in time as it is asked for and answered."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from ordinaut.api.schemas.base import Answer, Body, Instant, Query
from ordinaut.model import Json, RunStatus, Verdict

MAX_BACKFILL = 10_000


class OccurrencesQuery(Query):
    """Which part of the time of a task; the past is that of a week when nothing is said."""

    after: Instant | None = None
    until: Instant | None = None
    limit: Annotated[int, Field(ge=0, le=1000)] = 100
    future: Annotated[int, Field(ge=0, le=1000)] = 10


class OccurrenceOut(Answer):
    """What became of one occurrence: its run, or why there is none; or that it is to come."""

    scheduled_for: Instant
    verdict: Verdict | Literal["upcoming"]
    reason: str = ""
    run_id: UUID | None = None
    run_status: RunStatus | None = None
    decided_at: Instant | None = None


class OccurrencesOut(Answer):
    """The latest past occurrences and the next ones in one list, in the order of time."""

    items: list[OccurrenceOut]


class Backfill(Body):
    """For which past occurrences runs are wanted; both ends are included.

    Occurrences that have a run are left out, unless they shall run ``again``.
    """

    since: Instant
    until: Instant
    limit: Annotated[int, Field(ge=1, le=MAX_BACKFILL)] = 1000
    again: bool = False


class BackfillResult(Answer):
    """The runs that were made; ``go_on_after`` when the range holds more than the limit."""

    run_ids: list[UUID]
    occurrences: int
    go_on_after: Instant | None


class Moved(Answer):
    """An occurrence that a change takes to another time of the same day."""

    before: Instant
    after: Instant


class Difference(Answer):
    """What a change would do to the occurrences up to ``until``.

    ``complete`` is false when there are more than are compared.
    """

    until: Instant
    added: list[Instant]
    removed: list[Instant]
    moved: list[Moved]
    kept: int
    complete: bool
    next_run_at: Instant | None


class DryRun(Body):
    """With what a pipeline shall be tried out."""

    params: dict[str, Json] | None = None
    event: Json = None
    probe: Json = None


class DryRunOut(Answer):
    """Each step as it would be called; only tools that are ``pure`` were really called."""

    steps: list[Json]
    output: Json
    unknown: list[str]
    error: Json
    probe: Json = None
