"""One decision about what follows an outcome, and one backoff."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordinaut.engine.outcome import Failed, Suspended
from ordinaut.engine.retry import (
    MAX_BACKOFF_SECONDS,
    Decision,
    Fail,
    RetryAt,
    Suspend,
    backoff_seconds,
    decide,
)
from ordinaut.engine.steps import BackoffPolicy
from ordinaut.engine.waiting import Wait
from ordinaut.errors import StepError
from ordinaut.model import Backoff

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
RUN = UUID(int=7)
STRATEGIES: list[Backoff] = ["exponential_jitter", "exponential", "linear", "fixed"]


def decided(outcome: Any, **changes: Any) -> Decision:
    options: dict[str, Any] = {
        "attempt": 1, "max_retries": 3, "strategy": "fixed", "base_seconds": 10.0,
        "now": NOW, "run_id": RUN,
    }  # fmt: skip
    return decide(outcome, **(options | changes))


def failed(*, retryable: bool = True, **options: Any) -> Failed:
    error = StepError("no", retryable=retryable, details=options.pop("details", None))
    return Failed(error, (), **options)


def test_waiting_suspends() -> None:
    wait = Wait(step_id="w", kind="until", until=NOW)

    assert decided(Suspended((wait,), ())) == Suspend(NOW, (wait,))


def test_a_run_that_waits_for_several_goes_on_at_the_first() -> None:
    waits = (
        Wait(step_id="a", kind="event", until=NOW + timedelta(days=1)),
        Wait(step_id="b", kind="approval"),
        Wait(step_id="c", kind="until", until=NOW),
    )

    assert Suspended(waits, ()).until == NOW
    assert Suspended(waits[1:2], ()).until is None


def test_a_retryable_failure_goes_back_to_the_queue() -> None:
    decision = decided(failed())

    assert isinstance(decision, RetryAt)
    assert decision.run_at == NOW + timedelta(seconds=10)


@pytest.mark.parametrize(
    ("outcome", "exhausted"),
    [
        (failed(retryable=False), False),
        (failed(attempt=4), True),
        (failed(attempt=1, max_retries=0), True),
    ],
)
def test_a_failure_is_final_when_trying_again_can_not_help(
    outcome: Failed, exhausted: bool
) -> None:
    assert decided(outcome) == Fail(outcome.error, exhausted=exhausted)


def test_three_retries_are_four_attempts() -> None:
    kinds = [type(decided(failed(attempt=attempt))) for attempt in range(1, 6)]

    assert kinds == [RetryAt, RetryAt, RetryAt, Fail, Fail]


def test_the_policy_of_the_step_goes_first() -> None:
    policy = BackoffPolicy("linear", 7)

    decision = decided(failed(attempt=5, max_retries=9, backoff=policy))

    assert isinstance(decision, RetryAt)
    assert decision.run_at == NOW + timedelta(seconds=35)


def test_a_tool_may_ask_for_a_longer_pause_within_bounds() -> None:
    for asked, pause in [(60, 60), (1, 10), (1e9, 3600), (-5, 10), ("60", 10), (True, 10)]:
        decision = decided(failed(details={"retry_after": asked}))
        assert isinstance(decision, RetryAt)
        assert decision.run_at == NOW + timedelta(seconds=pause)


@pytest.mark.parametrize(
    ("strategy", "pauses"),
    [
        ("fixed", [2, 2, 2, 2]),
        ("linear", [2, 4, 6, 8]),
        ("exponential", [2, 4, 8, 16]),
    ],
)
def test_how_pauses_grow(strategy: Backoff, pauses: list[float]) -> None:
    found = [
        backoff_seconds(strategy, base_seconds=2, attempt=attempt, seed="")
        for attempt in range(1, 5)
    ]

    assert found == pauses


def test_jitter_differs_between_runs_and_not_between_deciders() -> None:
    def pause(seed: str) -> float:
        return backoff_seconds("exponential_jitter", base_seconds=2, attempt=3, seed=seed)

    assert pause("a:1") == pause("a:1")
    assert len({pause(f"{run}:1") for run in range(100)}) == 100


@given(
    strategy=st.sampled_from(STRATEGIES),
    base=st.floats(0.001, 1e6),
    attempt=st.integers(1, 10_000),
    seed=st.text(max_size=5),
)
def test_a_pause_is_bounded_and_never_zero(
    strategy: Backoff, base: float, attempt: int, seed: str
) -> None:
    pause = backoff_seconds(strategy, base_seconds=base, attempt=attempt, seed=seed)

    assert 0 < pause <= MAX_BACKOFF_SECONDS
    if strategy == "exponential_jitter":
        whole = min(base * 2.0 ** min(attempt - 1, 32), MAX_BACKOFF_SECONDS)
        assert whole / 2 <= pause <= whole
