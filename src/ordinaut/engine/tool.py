"""What a tool is, and what it is handed when it is called."""

from __future__ import annotations

import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from ordinaut.engine.processes import Place
from ordinaut.engine.redaction import NOTHING, Redactor
from ordinaut.engine.schema import Schema
from ordinaut.engine.values import check_text
from ordinaut.model import Effect, Json

ToolKind: TypeAlias = Literal["async", "sync", "generator"]
CallStyle: TypeAlias = Literal["keywords", "dict"]
RunsIn: TypeAlias = Literal["thread", "process"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]

LEVELS = ("debug", "info", "warning", "error")
MAX_LOG_MESSAGE = 8 * 1024
MAX_LOG_FIELDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A registered tool.

    ``takes`` and ``gives`` are the compiled schemas, ``None`` where everything is accepted.
    ``prepare`` turns JSON arguments into the types of the hints, ``dump`` a typed result into
    JSON; both are ``None`` for functions that speak JSON. ``place`` is where a function is found
    that runs in a process of its own.
    """

    name: str
    fn: Callable[..., Any]
    kind: ToolKind
    style: CallStyle
    wants_context: bool
    input_schema: Json
    output_schema: Json
    description: str
    effect: Effect
    timeout_seconds: float | None
    examples: tuple[Json, ...]
    takes: Schema | None
    gives: Schema | None
    prepare: Callable[[dict[str, Json]], dict[str, Any]] | None
    dump: Callable[[Any], Json] | None
    place: Place | None = None

    def describe(self) -> dict[str, Json]:
        """Return the entry of the catalogue."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": self.input_schema,
            "output_schema": self.output_schema,
            "effect": self.effect,
            "timeout_seconds": self.timeout_seconds,
            "examples": list(self.examples),
        }


class NotYet(Exception):
    """Raised by a tool of the core when what it waits for takes longer; it is no failure.

    The run is suspended, and the call made again at ``until``. ``since`` is when the waiting
    began.
    """

    def __init__(self, message: str, *, since: datetime, until: datetime) -> None:
        super().__init__(message)
        self.message = message
        self.since = since
        self.until = until


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a tool has come: ``fraction`` from 0 to 1."""

    fraction: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line that a tool wrote."""

    at: datetime
    level: Level
    message: str
    step_id: str
    index: int | None
    fields: dict[str, Json]


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far a step has come."""

    at: datetime
    step_id: str
    index: int | None
    fraction: float
    message: str


Report: TypeAlias = LogEntry | ProgressReport


class ToolContext:
    """What a tool may know about its call, and what it may say while it runs.

    ``log`` and ``progress`` may be called from any thread. ``cancelled`` turns true when nobody
    waits for the result any more: a tool that runs in a thread should look at it.
    """

    __slots__ = (
        "_clock_now",
        "_loop",
        "_redactor",
        "_sink",
        "_thread",
        "agent_id",
        "attempt",
        "cancelled",
        "index",
        "run_id",
        "step_id",
        "task_id",
    )

    def __init__(
        self,
        *,
        run_id: UUID,
        task_id: UUID,
        agent_id: UUID | None,
        step_id: str,
        index: int | None,
        attempt: int,
        clock_now: Callable[[], datetime],
        sink: Callable[[Report], None],
        loop: AbstractEventLoop,
        redactor: Redactor = NOTHING,
    ) -> None:
        self.run_id = run_id
        self.task_id = task_id
        self.agent_id = agent_id
        self.step_id = step_id
        self.index = index
        self.attempt = attempt
        self.cancelled = False
        self._clock_now = clock_now
        self._sink = sink
        self._redactor = redactor
        self._loop = loop
        self._thread = threading.get_ident()

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this call: ``run_id:step_id[:index]``."""
        key = f"{self.run_id}:{self.step_id}"
        return key if self.index is None else f"{key}:{self.index}"

    @property
    def now(self) -> datetime:
        """The current instant, in UTC."""
        return self._clock_now()

    def log(self, level: Level, message: str, **fields: Json) -> None:
        """Write one line to the log of the run."""
        if level not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
        text = self._clean(message)
        chosen = list(fields.items())[:MAX_LOG_FIELDS]
        kept = {self._clean(key): self._plain(value) for key, value in chosen}
        self._send(LogEntry(self.now, level, text, self.step_id, self.index, kept))

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the step has come, from 0 to 1."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction is between 0 and 1, not {fraction!r}")
        text = self._clean(message)
        self._send(ProgressReport(self.now, self.step_id, self.index, float(fraction), text))

    def redacted(self, value: Json) -> Json:
        """Return a value as it may be kept: without the secrets of the run."""
        return self._redactor.json(value)

    def _plain(self, value: Json) -> Json:
        return value if isinstance(value, bool | int | float | None) else self._clean(str(value))

    def _clean(self, text: str) -> str:
        return clean_text(self._redactor.text(str(text)), limit=MAX_LOG_MESSAGE)

    def _send(self, report: Report) -> None:
        if threading.get_ident() == self._thread:
            self._sink(report)
        else:
            self._loop.call_soon_threadsafe(self._sink, report)


def clean_text(text: str, *, limit: int) -> str:
    """Return foreign text bounded and free of what no database column can hold."""
    text = text if len(text) <= limit else f"{text[:limit]}…"
    try:
        check_text(text)
    except ValueError:
        return text.replace("\0", "�").encode("utf-8", "replace").decode()
    return text


def silent(report: Report) -> None:
    """Take a report to nowhere."""
