"""One attempt at one step, and the records it can leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from ordinaut.engine.steps import Step
from ordinaut.engine.tool import clean_text
from ordinaut.errors import StepError
from ordinaut.model import Json, StepRecord

Context: TypeAlias = Mapping[str, Json]
Key: TypeAlias = tuple[str, int | None]  # a step, and its item in a foreach

MAX_MESSAGE = 8 * 1024


@dataclass(slots=True)
class Attempt:
    """The ``number``-th attempt at a step; ``index`` and ``extra`` are those of an item.

    ``prior`` is what an earlier attempt of the run recorded. Not frozen: one is made for every
    step of every run, and frozen dataclasses are three times slower to make.
    """

    step: Step
    extra: Context | None
    index: int | None
    prior: StepRecord | None
    started: datetime
    number: int = 1

    def ended(self, status: str, at: datetime, *, output: Json = None) -> StepRecord:
        """Return the record of a step that succeeded or was skipped."""
        step = self.step
        return StepRecord(
            step.id,
            "succeeded" if status == "succeeded" else "skipped",
            self.number,
            self.started,
            at,
            step.uses or "",
            self.index,
            output,
        )

    def failed(self, error: Json, at: datetime, *, output: Json = None) -> StepRecord:
        """Return the record of a failure."""
        step = self.step
        return StepRecord(
            step.id, "failed", self.number, self.started, at, step.uses or "", self.index,
            output, error,
        )  # fmt: skip

    def running(self) -> StepRecord:
        """Return the marker that is durable before an ``at_most_once`` call."""
        step = self.step
        return StepRecord(
            step.id, "running", self.number, self.started, None, step.uses or "", self.index
        )


def latest(done: Sequence[StepRecord]) -> dict[Key, StepRecord]:
    """Return the latest record of each step, which is the one of its latest attempt."""
    last: dict[Key, StepRecord] = {}
    for record in done:
        key = (record.step_id, record.index)
        if key not in last or _age(record) >= _age(last[key]):
            last[key] = record
    return last


def _age(record: StepRecord) -> tuple[int, bool]:
    # The marker of a call and its end belong to one attempt; the end is the later.
    return record.attempt, record.status != "running"


def is_over(record: StepRecord) -> bool:
    """Tell whether a step is not run again: it ended, or its failure was handled."""
    if record.status == "failed":
        return _marked(record, "handled")
    return record.status in ("succeeded", "skipped")


def gave_up(record: StepRecord) -> bool:
    """Tell whether a step failed for good, and only its handler has not ended yet."""
    return record.status == "failed" and _marked(record, "final") and not is_over(record)


def _marked(record: StepRecord, key: str) -> bool:
    return isinstance(record.error, dict) and record.error.get(key) is True


def error_json(error: StepError, *, final: bool, handled: bool) -> dict[str, Json]:
    """Return an error as its record keeps it.

    ``final`` marks a failure that is not tried again, ``handled`` one after which the run went
    on as ``on_error`` says.
    """
    found: dict[str, Json] = {
        "code": str(error.code),
        "message": clean_text(error.message, limit=MAX_MESSAGE),
        "path": error.path,
        "retryable": bool(error.retryable),
    }
    if error.details:
        found["details"] = error.details
    if final:
        found["final"] = True
    if handled:
        found["handled"] = True
    return found


def shown_error(record: StepRecord) -> dict[str, Json]:
    """Return what ``${error…}`` shows of a failure."""
    error = record.error if isinstance(record.error, dict) else {}
    return {key: error.get(key) for key in ("code", "message", "path", "details")}
