"""What a worker tells the queue about its runs, as the queue's statements take it.

The values are tuples, which are made several times faster than frozen dataclasses: a worker
makes one for each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson

from ordinaut.model import Json, Lease, StepRecord

NO_ITEM = -1  # step_run.item outside a foreach

EndStatus: TypeAlias = Literal["succeeded", "failed", "canceled"]
JsonText: TypeAlias = str  # from encode() or encode_steps(); encoded early, its size is known


class Ended(NamedTuple):
    """A run that is over.

    ``announce`` says that nothing was written of this attempt yet, not even ``run.started``;
    ``earlier`` are the events before the last one, as of :func:`encode_facts`.
    """

    lease: Lease
    status: EndStatus
    started_at: datetime
    finished_at: datetime
    output: JsonText | None = None
    error: JsonText | None = None
    steps: JsonText = "[]"
    announce: bool = True
    earlier: JsonText = "[]"


class Parked(NamedTuple):
    """A run that goes on at ``run_at``: a retry, or with ``wait`` a suspension, maybe for ever."""

    lease: Lease
    run_at: datetime | None
    wait: JsonText | None = None
    error: JsonText | None = None
    steps: JsonText = "[]"
    announce: bool = True


class Checkpoint(NamedTuple):
    """Steps of a run that goes on at once."""

    lease: Lease
    steps: JsonText
    announce: bool = True


def encode(value: Json) -> JsonText:
    """Return ``value`` as JSON; raises ``TypeError`` for what is not JSON."""
    return orjson.dumps(value).decode()


def encode_steps(records: Sequence[StepRecord]) -> JsonText:
    """Return checkpoints in the form that the statements of this module take apart."""
    return encode(
        [
            (
                s.step_id,
                NO_ITEM if s.index is None else s.index,
                s.status,
                s.attempt,
                s.uses,
                s.started_at.timestamp(),
                None if s.finished_at is None else s.finished_at.timestamp(),
                s.output,
                s.error,
            )
            for s in records
        ]
    )


def encode_facts(lease: Lease, records: Sequence[StepRecord], *, announce: bool) -> JsonText:
    """Return the events of a run that ends but its last: its start, and what became of steps."""
    facts: list[tuple[str, Json]] = []
    if announce:
        begun = {"attempt": lease.attempt, "scheduled_for": lease.scheduled_for}
        facts.append(("run.started", begun))
    for record in records:
        if record.status in ("succeeded", "failed", "skipped"):
            said: Json = {"step_id": record.step_id, "attempt": record.attempt}
            if record.index is not None:
                said["item"] = record.index
            if record.error is not None:
                said["error"] = record.error
            facts.append((f"step.{record.status}", said))
    return encode(facts)


def array(values: Sequence[Any]) -> str:
    """Return a PostgreSQL array literal of plain values, ten times faster than the driver.

    A JSON array differs from one by its brackets and in control characters within strings,
    which ids, names and JSON texts do not have.
    """
    return f"{{{orjson.dumps(values)[1:-1].decode()}}}"
