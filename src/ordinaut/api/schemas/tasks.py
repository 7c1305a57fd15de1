"""Tasks as they are sent and as they are answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    create_model,
    model_validator,
    with_config,
)
from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from ordinaut.api.schemas.base import (
    Answer,
    Body,
    Instant,
    JsonObject,
    Labels,
    Name,
    PageQuery,
    Text,
)
from ordinaut.engine.lanes import RATE, parse_rate
from ordinaut.engine.windows import MAX_EVENTS
from ordinaut.errors import InvalidInput
from ordinaut.model import (
    Backoff,
    Catchup,
    DstFold,
    DstGap,
    Json,
    OnExcluded,
    Overlap,
    RunStatus,
    ScheduleKind,
    TaskStatus,
)

MAX_BATCH = 10_000
DAY = 86_400
YEAR = 366 * DAY

Expression: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Seconds: TypeAlias = Annotated[int, Field(ge=0, le=YEAR)]
Priority: TypeAlias = Annotated[int, Field(ge=1, le=9)]
CalendarNames: TypeAlias = Annotated[list[Name], Field(max_length=20)]


def _rate(text: str) -> str:
    try:
        parse_rate(text)
    except InvalidInput as error:
        raise ValueError(str(error)) from None
    return text


RateLimit: TypeAlias = Annotated[
    str, AfterValidator(_rate), WithJsonSchema({"type": "string", "pattern": f"^{RATE}$"})
]


class ScheduleFields(Body):
    """When something happens; what preview, explain and tasks have in common."""

    schedule_kind: ScheduleKind
    schedule_expr: Expression
    timezone: Name | None = None
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    dst_gap: DstGap = "shift"
    dst_fold: DstFold = "first"
    exclude: CalendarNames = Field(default_factory=list)
    on_excluded: OnExcluded = "skip"


@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class EventWindow(TypedDict, total=False):
    """Which events start a run of an ``event`` task together: after quiet, or in batches.

    ``by`` is JMESPath over the event: each value that it yields has a window of its own.
    """

    debounce_seconds: Annotated[float, Field(ge=0.1, le=DAY)]
    max_wait_seconds: Annotated[float, Field(ge=0.1, le=7 * DAY)]
    batch_seconds: Annotated[float, Field(ge=0.1, le=DAY)]
    max_events: Annotated[int, Field(ge=1, le=MAX_EVENTS)]
    by: Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class TaskIn(ScheduleFields):
    """A task as it is sent; ``timezone`` is the server's when it is left out."""

    title: Name
    description: Text = ""
    payload: JsonObject
    priority: Priority = 5
    dedupe_key: Name | None = None
    dedupe_window_seconds: Seconds = 0
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    backoff_strategy: Backoff = "exponential_jitter"
    backoff_seconds: Annotated[float, Field(gt=0, le=DAY)] = 2.0
    concurrency_key: Name | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 1
    rate_limit: RateLimit | None = None
    retention_days: Annotated[int, Field(ge=1, le=36_600)] | None = None
    catchup: Catchup = "last"
    catchup_window_seconds: Seconds = DAY
    overlap: Overlap = "allow"
    jitter_seconds: Annotated[int, Field(ge=0, le=DAY)] = 0
    max_runs: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=30 * DAY)] | None = None
    event_window: EventWindow | None = None
    labels: Labels = Field(default_factory=dict)


def _optional(info: FieldInfo) -> tuple[Any, Any]:
    kept: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    return kept, Field(default=None, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


# The fields of TaskIn, none of them required: what is left out stays as it is.
_optional_fields: dict[str, Any] = {
    name: _optional(info) for name, info in TaskIn.model_fields.items()
}
TaskPatch: Any = create_model("TaskPatch", __base__=Body, **_optional_fields)


class TaskBatch(Body):
    """Many tasks that are stored together or not at all."""

    tasks: Annotated[list[TaskIn], Field(min_length=1, max_length=MAX_BATCH)]


class TaskQuery(PageQuery):
    """Which tasks; ``label`` is ``key:value``, ``q`` stands in title or description."""

    status: TaskStatus | None = None
    schedule_kind: ScheduleKind | None = None
    label: list[str] = Field(default_factory=list, max_length=10)
    q: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class RunNow(Body):
    """What a run out of turn adds to its task."""

    params: JsonObject | None = None
    priority: Priority | None = None
    run_at: Instant | None = None


class Snooze(Body):
    """Until when the next occurrence waits."""

    until: Instant | None = None
    seconds: Annotated[int, Field(ge=1, le=YEAR)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Snooze:
        if (self.until is None) == (self.seconds is None):
            raise ValueError("give either until or seconds")
        return self


class Resume(Body):
    """What becomes of the occurrences that fell into the pause."""

    catchup: Catchup | None = None


class BulkFilter(Body):
    """Which tasks a bulk action means; at least one condition is needed."""

    ids: Annotated[list[Annotated[UUID, Field(strict=False)]], Field(max_length=1000)] | None = None
    status: TaskStatus | None = None
    schedule_kind: ScheduleKind | None = None
    labels: Labels | None = None
    q: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _not_everything(self) -> BulkFilter:
        if not self.model_fields_set:
            raise ValueError("say which tasks: ids, status, schedule_kind, labels or q")
        return self


class Bulk(Body):
    """One action on all tasks that fit."""

    action: Literal["pause", "resume", "cancel"]
    filter: BulkFilter


class BulkResult(Answer):
    """How many tasks fitted, and which of them changed."""

    matched: int
    changed: list[UUID]


class LastRun(Answer):
    """The run of a task that ended last."""

    id: UUID
    status: RunStatus
    scheduled_for: Instant | None
    started_at: Instant | None
    finished_at: Instant


class ConditionOut(Answer):
    """What is known of the condition of a task.

    ``holds`` is null before the first poll that succeeds, and ``since`` is when it became what it
    is. ``failures`` counts the polls in a row that failed, the last with ``error``.
    """

    holds: bool | None
    since: Instant | None
    polled_at: Instant | None
    next_poll_at: Instant | None
    fired_at: Instant | None
    failures: int
    failing_since: Instant | None
    error: Json


class TaskOut(Answer):
    """A task as it is stored, with what became of it."""

    id: UUID
    version: int
    status: TaskStatus
    title: str
    description: str
    schedule_kind: ScheduleKind
    schedule_expr: str
    timezone: str
    starts_at: Instant | None
    ends_at: Instant | None
    max_runs: int | None
    jitter_seconds: int
    dst_gap: DstGap
    dst_fold: DstFold
    catchup: Catchup
    catchup_window_seconds: int
    overlap: Overlap
    exclude: list[str]
    on_excluded: OnExcluded
    payload: Json
    priority: int
    dedupe_key: str | None
    dedupe_window_seconds: int
    max_retries: int
    backoff_strategy: Backoff
    backoff_seconds: float
    timeout_seconds: float | None
    concurrency_key: str | None
    max_concurrency: int
    rate_limit: str | None
    retention_days: int | None
    event_window: EventWindow | None
    labels: dict[str, str]
    created_by: UUID
    created_at: Instant
    updated_at: Instant
    next_run_at: Instant | None
    fired: int
    last_run: LastRun | None
    condition: ConditionOut | None


class Validated(Answer):
    """A task that could be stored as it is."""

    valid: Literal[True] = True
    next_run_at: Instant | None
    occurrences: list[Instant]
