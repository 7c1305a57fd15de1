"""Calls that may or may not have happened: a person decides what becomes of them.

A worker that ends inside of an ``at_most_once`` call leaves the marker of the call and no
result. The step then waits with the question ``effect_unknown``, whose answers are:

* approved: it happened. The record becomes ``succeeded``, with the output that the person gave;
* rejected: it did not, and shall not. The record becomes ``failed``, and the step fails;
* try it again: the record is forgotten.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from ordinaut.engine.attempt import Attempt, error_json
from ordinaut.engine.outcome import Suspended
from ordinaut.engine.waiting import Wait, asked_again, refusal
from ordinaut.errors import EffectUnknown, WaitRefused
from ordinaut.model import Json, StepRecord

KIND: Final = "effect_unknown"


def ask(attempt: Attempt, error: EffectUnknown, *, now: datetime) -> Suspended:
    """Suspend the run at a call of which nobody knows whether it happened."""
    step, index = attempt.step, attempt.index
    wait = Wait(step_id=step.id, index=index, kind=KIND, message=error.message)
    record = StepRecord(
        step.id,
        "waiting",
        attempt.number,
        now,
        None,
        step.uses or "",
        index,
        {"wait": wait.to_json()},
        error_json(error, final=False, handled=False),
    )
    return Suspended((wait,), (record,))


def still_open(record: StepRecord) -> Wait | None:
    """Return the question of a record that nobody has answered yet."""
    if record.status != "waiting":
        return None
    wait = asked_again(record)
    return wait if wait.kind == KIND else None


def denial(record: StepRecord) -> WaitRefused | None:
    """Return the failure of a step whose question a person has rejected."""
    error = record.error if isinstance(record.error, dict) else {}
    said: Json = error.get("details")
    if record.status != "failed" or error.get("code") != EffectUnknown.code:
        return None
    if not isinstance(said, dict) or said.get("approved") is not False:
        return None
    return refusal(said, path=str(error.get("path", "")))
