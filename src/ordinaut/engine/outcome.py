"""What a run is given, what it needs of the outside, and how it can end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias
from uuid import UUID

from ordinaut.engine.steps import BackoffPolicy
from ordinaut.engine.tool import Report
from ordinaut.engine.waiting import Wait
from ordinaut.errors import StepError
from ordinaut.model import Json, StepRecord, Trigger

# Returns the values of the named secrets; a name that is missing from the answer does not exist.
SecretSource: TypeAlias = Callable[[frozenset[str]], Awaitable[Mapping[str, str]]]


class Run(Protocol):
    """What the engine asks about the run that it executes. ``task`` is what ``${task…}`` shows."""

    @property
    def run_id(self) -> UUID: ...
    @property
    def task_id(self) -> UUID: ...
    @property
    def attempt(self) -> int: ...
    @property
    def max_retries(self) -> int: ...
    @property
    def trigger(self) -> Trigger: ...
    @property
    def scheduled_for(self) -> datetime | None: ...
    @property
    def agent_id(self) -> UUID | None: ...
    @property
    def task(self) -> Mapping[str, Json]: ...


class RunInfo(NamedTuple):
    """A :class:`Run` by itself."""

    run_id: UUID
    task_id: UUID
    attempt: int = 1
    max_retries: int = 3
    trigger: Trigger = "schedule"
    scheduled_for: datetime | None = None
    agent_id: UUID | None = None
    task: Mapping[str, Json] = MappingProxyType({})


class Journal(Protocol):
    """Where a run writes down what must survive it.

    All of these may raise :class:`~ordinaut.errors.LeaseLost`, which ends the execution.
    """

    async def checkpoint(self, records: Sequence[StepRecord]) -> None:
        """Make the records durable; they are when this returns."""

    async def begin(self, record: StepRecord) -> None:
        """Make durable that an ``at_most_once`` call is about to be made."""

    def report(self, report: Report) -> None:
        """Take a log line or a progress report; must not block."""


class Unwritten:
    """The journal of a run that leaves no trace, and has nothing to resume."""

    async def checkpoint(self, records: Sequence[StepRecord]) -> None:
        return None

    async def begin(self, record: StepRecord) -> None:
        return None

    def report(self, report: Report) -> None:
        return None


@dataclass(slots=True)
class Succeeded:
    """All steps ended. ``steps`` are the records that are not durable yet.

    Not frozen for the same reason as an attempt.
    """

    output: Json
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A step failed and nothing handles it.

    ``attempt`` counts the attempts at this step. ``max_retries`` and ``backoff`` are those of
    the step; ``None`` leaves them to the task.
    """

    error: StepError
    steps: tuple[StepRecord, ...]
    step_id: str | None = None
    attempt: int = 1
    max_retries: int | None = None
    backoff: BackoffPolicy | None = None


@dataclass(frozen=True, slots=True)
class Suspended:
    """The run waits and needs no worker; ``until`` is when it goes on by itself, if ever."""

    waits: tuple[Wait, ...]
    steps: tuple[StepRecord, ...]

    @property
    def until(self) -> datetime | None:
        return min((wait.until for wait in self.waits if wait.until is not None), default=None)


Outcome: TypeAlias = Succeeded | Failed | Suspended
