"""The words of the product as frozen values.

Rows become these values in ``store``, JSON becomes them in ``api.schemas`` and
``engine.pipeline``; no dictionaries travel between the layers. The same words stand in SQL,
Python, the API and the docs (``docs/reference/glossary.md``).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

Json: TypeAlias = Any  # a JSON value: None, bool, int, float, str, list or dict of such

ScheduleKind: TypeAlias = Literal["rrule", "cron", "interval", "once", "event", "condition"]
DstGap: TypeAlias = Literal["shift", "skip"]
DstFold: TypeAlias = Literal["first", "last", "both"]
Catchup: TypeAlias = Literal["last", "all", "none"]
Overlap: TypeAlias = Literal["allow", "skip", "queue", "cancel_running"]
OnExcluded: TypeAlias = Literal["skip", "next", "previous"]
Backoff: TypeAlias = Literal["exponential_jitter", "exponential", "linear", "fixed"]
TaskStatus: TypeAlias = Literal["active", "paused", "canceled", "completed"]
RunStatus: TypeAlias = Literal[
    "queued", "running", "waiting", "succeeded", "failed", "canceled", "dead"
]
StepStatus: TypeAlias = Literal["running", "waiting", "succeeded", "failed", "skipped"]
Trigger: TypeAlias = Literal["schedule", "run_now", "backfill", "event", "condition", "task"]
Effect: TypeAlias = Literal["pure", "idempotent", "at_most_once"]
Verdict: TypeAlias = Literal[
    "started",
    "backfilled",
    "coalesced",
    "skipped_overlap",
    "skipped_calendar",
    "skipped_dst",
    "skipped_paused",
    "skipped_condition",
    "snoozed",
    "missed",
    "canceled",
]

NOBODY = UUID(int=0)

_uuid7_lock = threading.Lock()
_uuid7_last = 0
_uuid7_random: list[int] = []  # from the system, many at a time: to ask costs more than the rest
os.register_at_fork(after_in_child=_uuid7_random.clear)


def uuid7() -> UUID:
    """Return a new UUIDv7 (RFC 9562 section 5.7), increasing within this process.

    The 12 bits after the version carry the sub-millisecond fraction (method 3 of section 6.2);
    when two calls share it, the later one takes the next value.
    """
    global _uuid7_last
    tick = (time.time_ns() << 12) // 1_000_000  # milliseconds with their fraction
    with _uuid7_lock:
        tick = max(tick, _uuid7_last + 1)
        _uuid7_last = tick
        if not _uuid7_random:
            _uuid7_random.extend(memoryview(os.urandom(2048)).cast("Q"))
        random = _uuid7_random.pop() & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(
        int=(tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62 | random,
    )


class Schedule(NamedTuple):
    """When a task fires: everything that decides its occurrences.

    ``anchor`` is what a bare ``FREQ=…``, an interval without ``starts_at`` and COUNT start
    from: the task's creation. ``exclude`` names calendars. A tuple, because the tick makes and
    compares one for each task that is due.
    """

    kind: ScheduleKind
    expr: str
    timezone: str
    anchor: datetime
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    dst_gap: DstGap = "shift"
    dst_fold: DstFold = "first"
    exclude: tuple[str, ...] = ()
    on_excluded: OnExcluded = "skip"


@dataclass(frozen=True, slots=True)
class Task:
    """What runs, when and how. ``version`` grows with every change (the ETag)."""

    id: UUID
    version: int
    title: str
    schedule: Schedule
    payload: Json
    created_by: UUID
    created_at: datetime
    updated_at: datetime
    description: str = ""
    status: TaskStatus = "active"
    priority: int = 5
    dedupe_key: str | None = None
    dedupe_window_seconds: int = 0
    max_retries: int = 3
    backoff_strategy: Backoff = "exponential_jitter"
    backoff_seconds: float = 2.0
    concurrency_key: str | None = None
    max_concurrency: int = 1
    rate_limit: str | None = None
    catchup: Catchup = "last"
    catchup_window_seconds: int = 86_400
    overlap: Overlap = "allow"
    jitter_seconds: int = 0
    max_runs: int | None = None
    timeout_seconds: float | None = None
    retention_days: int | None = None
    event_window: Json = None  # see engine.windows
    labels: Mapping[str, str] = field(default_factory=dict)
    next_run_at: datetime | None = None


class Rate(NamedTuple):
    """At most ``runs`` starts in any span of ``seconds``."""

    runs: int
    seconds: int


class Lane(NamedTuple):
    """What a run shares with others: their number at a time, and how many start in a span.

    Without a key there is no limit.
    """

    concurrency_key: str | None = None
    max_concurrency: int = 1
    rate: Rate | None = None


NO_LANE = Lane()


class NewWork(NamedTuple):
    """One run to be enqueued; ``scheduled_for`` is ``None`` when no occurrence asked for it.

    ``payload`` is what this run adds to the definition of its task: ``params``, ``event``,
    ``probe``.
    ``created_by`` owns the task: agents share the workers equally.
    """

    id: UUID
    task_id: UUID
    task_version: int
    scheduled_for: datetime | None
    run_at: datetime
    priority: int
    trigger: Trigger
    created_by: UUID = NOBODY
    payload: Json = None
    lane: Lane = NO_LANE


class Lease(NamedTuple):
    """The time-limited right to execute one row of due work.

    ``token`` is the fence: every write about the run names it, and no row means another worker
    owns the run. ``id`` is the id of the run, the same over all its attempts. ``payload`` is
    what this run adds to the definition of its task (``params``, ``event``, ``probe``), or
    ``None``.
    ``crashes`` counts the workers that ended without a word while they held it.

    A tuple, because a worker makes 30,000 of them a second.
    """

    id: UUID
    token: int
    task_id: UUID
    task_version: int
    attempt: int
    run_at: datetime
    scheduled_for: datetime | None
    trigger: Trigger
    payload: Json
    resumed: bool
    crashes: int = 0


class StepRecord(NamedTuple):
    """The checkpoint of one step of a run; ``index`` is the item of a ``foreach``.

    A tuple for the same reason as :class:`Lease`.
    """

    step_id: str
    status: StepStatus
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    uses: str = ""
    index: int | None = None  # type: ignore[assignment]
    output: Json = None
    error: Json = None


@dataclass(frozen=True, slots=True)
class Event:
    """A fact, before it gets its place (``seq``) in the outbox."""

    topic: str
    data: Json
    task_id: UUID | None = None
    run_id: UUID | None = None
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Agent:
    """Who acts, and what it may do."""

    id: UUID
    name: str
    scopes: frozenset[str]
    status: Literal["active", "disabled"] = "active"

    def may(self, scope: str) -> bool:
        """Tell whether one of the agent's scopes covers ``scope``."""
        return bool({scope, f"{scope}:all", "admin"} & self.scopes)
