"""Runs and their steps as they are answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field

from ordinaut.api.schemas.base import Answer, Body, Instant, JsonObject, Name, PageQuery, Query
from ordinaut.engine.tool import Level
from ordinaut.model import Json, RunStatus, StepStatus, Trigger
from ordinaut.store.runs import Percentiles

MAX_NOTE: Final = 2000


class RunQuery(PageQuery):
    """Which runs; several ``status`` mean any of them."""

    task_id: UUID | None = None
    status: list[RunStatus] = Field(default_factory=list, max_length=7)
    trigger: Trigger | None = None


class StatsQuery(Query):
    """Over which runs to count; ``since`` is one day ago when it is left out."""

    task_id: UUID | None = None
    since: Instant | None = None


class RetryQuery(Query):
    """Where a run that ended begins again; by default after the last completed step."""

    from_step: Name | None = None


class Decision(Body):
    """What a person says to a run that waits.

    ``step`` (and ``index``, of a ``foreach``) is needed when several steps wait. ``output`` is
    what a step yields whose effect is unknown, when it is approved.
    """

    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""
    step: Name | None = None
    index: Annotated[int, Field(ge=0)] | None = None
    output: Json = None


class LogQuery(PageQuery):
    """Which lines of a run; ``level`` is the least that is shown."""

    level: Level = "debug"
    step_id: Name | None = None


class LineOut(Answer):
    """One line that a tool wrote; ``index`` is the item of a ``foreach``."""

    at: Instant
    level: Level
    step_id: str
    index: int | None
    message: str
    fields: JsonObject


class StepOut(Answer):
    """One step of a run; ``index`` is the item of a ``foreach``."""

    id: str
    index: int | None
    uses: str
    status: StepStatus
    attempt: int
    started_at: Instant
    finished_at: Instant | None
    output: Json
    error: Json


class RunOut(Answer):
    """One execution of a task over all its attempts."""

    id: UUID
    task_id: UUID
    task_title: str
    task_version: int
    status: RunStatus
    trigger: Trigger
    attempt: int
    scheduled_for: Instant | None
    run_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    worker_id: UUID | None
    params: Json
    event: Json
    events: Json
    probe: Json
    output: Json
    error: Json
    wait: Json
    cancel_requested: bool
    progress: Json


class RunDetail(RunOut):
    """A run with its steps."""

    steps: list[StepOut]


class StatsOut(Answer):
    """How many runs there are by status; durations and lateness in seconds."""

    since: Instant
    counts: Mapping[str, int]
    duration: Percentiles | None
    lateness: Percentiles | None
