"""Runs and their steps as they are answered."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from pydantic import Field

from ordinaut.api.schemas.base import Answer, Body, Instant, Name, PageQuery, Query
from ordinaut.model import Json, RunStatus, StepRecord, StepStatus, Trigger
from ordinaut.store.runs import Percentiles, Run


class RunQuery(PageQuery):
    """Which runs; several ``status`` mean any of them."""

    task_id: UUID | None = None
    status: list[RunStatus] = Field(default_factory=list, max_length=7)
    trigger: Trigger | None = None


class StatsQuery(Query):
    """Over which runs to count; ``since`` is one day ago when it is left out."""

    task_id: UUID | None = None
    since: Instant | None = None


class Retry(Body):
    """Where a run that ended begins again; by default after the last completed step."""

    from_step: Name | None = None


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

    @classmethod
    def of(cls, step: StepRecord) -> StepOut:
        """Write a checkpoint."""
        return cls(
            id=step.step_id,
            **{name: getattr(step, name) for name in cls.model_fields if name != "id"},
        )


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
    output: Json
    error: Json
    wait: Json
    cancel_requested: bool

    @classmethod
    def of(cls, run: Run) -> RunOut:
        """Write a run."""
        return cls.model_construct(**_fields(run))


class RunDetail(RunOut):
    """A run with its steps."""

    steps: list[StepOut]

    @classmethod
    def with_steps(cls, run: Run, steps: list[StepRecord]) -> RunDetail:
        """Write a run and its checkpoints."""
        return cls.model_construct(**_fields(run), steps=[StepOut.of(step) for step in steps])


class StatsOut(Answer):
    """How many runs there are by status; durations and lateness in seconds."""

    since: Instant
    counts: Mapping[str, int]
    duration: Percentiles | None
    lateness: Percentiles | None


def _fields(run: Run) -> dict[str, Json]:
    added = run.payload if isinstance(run.payload, dict) else {}
    own = {name: getattr(run, name) for name in Run.__slots__ if name != "payload"}
    return own | {"params": added.get("params"), "event": added.get("event")}
