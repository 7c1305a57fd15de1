"""What a worker tells the queue about its runs, as the queue's statements take it.

The values are tuples, which are made several times faster than frozen dataclasses: a worker
makes one for each run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson

from ordinaut.model import Json, Lease, StepRecord

NO_ITEM = -1  # step_run.item outside a foreach

EndStatus: TypeAlias = Literal["succeeded", "failed", "canceled"]
JsonText: TypeAlias = str  # from encode(); encoded early, its size is known
# step_id, item, status, attempt, uses, started_at, finished_at, output, error
StepRow: TypeAlias = tuple[
    str, int, str, int, str, float, float | None, JsonText | None, JsonText | None
]

STEP_COLUMNS = (
    "step_ids", "step_items", "step_statuses", "step_attempts", "step_uses", "step_started_ats",
    "step_finished_ats", "step_outputs", "step_errors",
)  # fmt: skip
STEP_ENDED: Mapping[str, str] = {
    status: f"step.{status}" for status in ("succeeded", "failed", "skipped")
}  # the event that tells of it
ROW_SIZE = 100  # characters of a step's row without its output and error, roughly


class Ended(NamedTuple):
    """A run that is over.

    ``started_at`` and ``finished_at`` are in seconds since 1970, as in a :data:`StepRow`;
    ``announce`` says that nothing was written of this attempt yet, not even ``run.started``;
    ``earlier`` are the events before the last one, as of :func:`facts`.
    """

    lease: Lease
    status: EndStatus
    started_at: float
    finished_at: float
    output: JsonText | None = None
    error: JsonText | None = None
    steps: Sequence[StepRow] = ()
    announce: bool = True
    earlier: JsonText = "[]"

    @property
    def size(self) -> int:
        """Roughly how many characters it takes to write it down."""
        size = len(self.output or "") + len(self.error or "") + len(self.earlier)
        for row in self.steps:
            size += ROW_SIZE + len(row[7] or "") + len(row[8] or "")
        return size


class Parked(NamedTuple):
    """A run that goes on at ``run_at``: a retry, or with ``wait`` a suspension, maybe for ever."""

    lease: Lease
    run_at: datetime | None
    wait: JsonText | None = None
    error: JsonText | None = None
    steps: Sequence[StepRow] = ()
    announce: bool = True


class Checkpoint(NamedTuple):
    """Steps of a run that goes on at once."""

    lease: Lease
    steps: Sequence[StepRow]
    announce: bool = True


def encode(value: Json) -> JsonText:
    """Return ``value`` as JSON; raises ``TypeError`` for what is not JSON."""
    return orjson.dumps(value).decode()


def step_rows(records: Sequence[StepRecord]) -> list[StepRow]:
    """Return checkpoints as the statements of this module take them."""
    return [
        (
            step_id,
            NO_ITEM if index is None else index,
            status,
            attempt,
            uses,
            started_at.timestamp(),
            None if finished_at is None else finished_at.timestamp(),
            None if output is None else encode(output),
            None if error is None else encode(error),
        )
        for step_id, status, attempt, started_at, finished_at, uses, index, output, error in records
    ]


def step_columns(batch: Sequence[Ended]) -> dict[str, str]:
    """Return the steps of many runs column by column; one is fresh that can have no row yet."""
    owned = [(end, row) for end in batch for row in end.steps]
    columns = zip(*(row for _, row in owned), strict=True) if owned else [()] * len(STEP_COLUMNS)
    return {
        "step_runs": array([end.lease.id for end, _ in owned]),
        "step_fresh": array([end.announce and not end.lease.resumed for end, _ in owned]),
        **dict(zip(STEP_COLUMNS, map(array, columns), strict=True)),
    }


def facts(lease: Lease, records: Sequence[StepRecord], *, announce: bool) -> JsonText:
    """Return the events of a run that ends but its last: its start, and what became of steps.

    Each is a pair of its topic and its data.
    """
    found: list[tuple[str, Json]] = []
    if announce:
        found.append(
            ("run.started", {"attempt": lease.attempt, "scheduled_for": lease.scheduled_for})
        )
    for step_id, status, attempt, _, _, _, index, _, error in records:
        if (topic := STEP_ENDED.get(status)) is not None:
            said: Json = {"step_id": step_id, "attempt": attempt}
            if index is not None:
                said["item"] = index
            if error is not None:
                said["error"] = error
            found.append((topic, said))
    return encode(found)


def array(values: Sequence[Any]) -> str:
    """Return a PostgreSQL array literal of plain values, ten times faster than the driver.

    A JSON array differs from one by its brackets and in control characters within strings,
    which ids, names and JSON texts do not have.
    """
    return f"{{{orjson.dumps(values)[1:-1].decode()}}}"
