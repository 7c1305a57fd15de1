"""What happens after a run that did not succeed: the only place where that is decided."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import TypeAlias
from uuid import UUID

from ordinaut.engine.outcome import Failed, Suspended
from ordinaut.engine.waiting import Wait
from ordinaut.errors import StepError
from ordinaut.model import Backoff

MAX_BACKOFF_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class RetryAt:
    """The run goes back to the queue."""

    run_at: datetime
    error: StepError


@dataclass(frozen=True, slots=True)
class Fail:
    """The run failed for good; ``exhausted`` when its retries are used up."""

    error: StepError
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Suspend:
    """The run waits; ``run_at`` is when it goes on by itself, if ever."""

    run_at: datetime | None
    waits: tuple[Wait, ...]


Decision: TypeAlias = RetryAt | Fail | Suspend


def decide(
    outcome: Failed | Suspended,
    *,
    attempt: int,
    max_retries: int,
    strategy: Backoff,
    base_seconds: float,
    now: datetime,
    run_id: UUID,
) -> Decision:
    """Map an outcome to what the store is told; the policy of a failed step goes first.

    ``attempt`` is that of the run. It makes the jitter differ from attempt to attempt; how many
    attempts are left is counted for each step on its own.
    """
    match outcome:
        case Suspended():
            return Suspend(outcome.until, outcome.waits)
        case Failed():
            limit = max_retries if outcome.max_retries is None else outcome.max_retries
            if not may_retry(outcome.error, attempt=outcome.attempt, max_retries=limit):
                return Fail(outcome.error, exhausted=outcome.error.retryable)
            policy = outcome.backoff
            pause = backoff_seconds(
                (policy and policy.strategy) or strategy,
                base_seconds=(policy and policy.seconds) or base_seconds,
                attempt=outcome.attempt,
                seed=f"{run_id}:{attempt}",
            )
            pause = max(pause, _asked_for(outcome.error))
            return RetryAt(now + timedelta(seconds=pause), outcome.error)


def may_retry(error: StepError, *, attempt: int, max_retries: int) -> bool:
    """Tell whether a step that failed at its ``attempt`` is tried again."""
    return error.retryable and attempt <= max_retries


def backoff_seconds(strategy: Backoff, *, base_seconds: float, attempt: int, seed: str) -> float:
    """Return the pause after ``attempt``, at most an hour.

    Jitter takes up to half of the pause away. It depends on ``seed`` alone, so that the same
    decision is made whoever makes it, and runs that failed together do not return together.
    """
    exponential = base_seconds * 2.0 ** min(attempt - 1, 32)
    match strategy:
        case "fixed":
            pause = base_seconds
        case "linear":
            pause = base_seconds * attempt
        case "exponential":
            pause = exponential
        case "exponential_jitter":
            pause = min(exponential, MAX_BACKOFF_SECONDS) * (1 - _fraction(seed) / 2)
    return min(pause, MAX_BACKOFF_SECONDS)


def _fraction(seed: str) -> float:
    return int.from_bytes(blake2b(seed.encode(), digest_size=6).digest()) / 2**48


def _asked_for(error: StepError) -> float:
    """Return the pause a tool asks for (``retry_after`` in its details), within our bounds."""
    asked = error.details.get("retry_after")
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not asked > 0:
        return 0.0
    return min(float(asked), MAX_BACKOFF_SECONDS)
