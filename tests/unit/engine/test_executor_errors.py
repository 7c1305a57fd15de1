"""What follows a failure: another attempt, on_error, or the end of the run."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench import Bench, step, steps

from ordinaut.engine.outcome import Failed, RunInfo, Succeeded, Suspended
from ordinaut.engine.steps import BackoffPolicy
from ordinaut.errors import ToolError
from ordinaut.model import Json, uuid7


@pytest.fixture
def bench() -> Bench:
    """A bench with a tool that fails as often as ``fails`` says, by name."""
    bench = Bench()

    async def flaky(name: str, fails: int, retryable: bool = True) -> Json:
        bench.calls.append(name)
        if bench.calls.count(name) <= fails:
            raise ToolError(f"{name} said no", retryable=retryable, details={"name": name})
        return name

    bench.tool("test.flaky", flaky)
    return bench


def flaky(name: str, fails: int, *, retryable: bool = True, **keys: Any) -> Json:
    arguments = {"name": name, "fails": fails, "retryable": retryable}
    return step("test.flaky", id=name, with_=arguments, **keys)


async def attempts(bench: Bench, payload: Json, *, limit: int = 20) -> list[Any]:
    """Execute again and again, as a worker would, until the run ends."""
    outcomes: list[Any] = []
    while len(outcomes) < limit:
        outcome = await bench.execute(payload)
        outcomes.append(outcome)
        if not isinstance(outcome, Failed) or outcome.steps[-1].error.get("final"):
            break
    return outcomes


async def test_a_failed_step_counts_its_own_attempts(bench: Bench) -> None:
    outcomes = await attempts(bench, steps(flaky("a", 2), flaky("b", 3)))

    assert [o.attempt for o in outcomes[:-1]] == [1, 2, 1, 2, 3]
    assert isinstance(outcomes[-1], Succeeded)
    assert outcomes[-1].steps[-1].attempt == 4
    assert bench.calls == ["a"] * 3 + ["b"] * 4


async def test_retries_end_with_a_final_failure(bench: Bench) -> None:
    outcomes = await attempts(bench, steps(flaky("a", 99)))

    assert len(outcomes) == 4
    assert [o.steps[-1].error.get("final", False) for o in outcomes] == [False] * 3 + [True]


async def test_the_retries_of_the_step_go_before_those_of_the_task(bench: Bench) -> None:
    payload = steps(flaky("a", 99, max_retries=1, backoff={"strategy": "linear", "seconds": 5}))

    outcomes = await attempts(bench, payload)

    assert len(outcomes) == 2
    assert outcomes[0].max_retries == 1
    assert outcomes[0].backoff == BackoffPolicy("linear", 5.0)


async def test_a_failure_that_is_not_retryable_is_final_at_once(bench: Bench) -> None:
    (outcome,) = await attempts(bench, steps(flaky("a", 99, retryable=False)))

    assert outcome.steps[-1].error == {
        "code": "tool_error",
        "message": "a said no",
        "path": "payload.pipeline[0]",
        "retryable": False,
        "details": {"name": "a"},
        "final": True,
    }


async def test_continue_goes_on_with_the_error_as_output(bench: Bench) -> None:
    payload = steps(
        flaky("a", 99, retryable=False, on_error="continue", save_as="saved"),
        step(id="b", if_="steps.a.error", with_={"why": "${steps.saved.error.message}"}),
        output="${steps.b.why}",
    )

    outcome = await bench.execute(payload)

    assert isinstance(outcome, Succeeded)
    assert outcome.output == "a said no"
    (failure,) = bench.journal.checkpoints[0]
    assert failure.status == "failed"
    assert failure.error["handled"] is True
    assert failure.output == {
        "error": {
            "code": "tool_error",
            "message": "a said no",
            "path": "payload.pipeline[0]",
            "details": {"name": "a"},
        }
    }


async def test_continue_tries_again_first(bench: Bench) -> None:
    outcomes = await attempts(bench, steps(flaky("a", 99, max_retries=2, on_error="continue")))

    assert [type(o) for o in outcomes] == [Failed, Failed, Succeeded]
    assert bench.calls == ["a"] * 3


async def test_a_handled_failure_is_not_repeated_when_the_run_resumes(bench: Bench) -> None:
    payload = steps(
        flaky("a", 99, retryable=False, on_error="continue"),
        flaky("b", 1),
        output="${steps.a.error.code}",
    )

    outcomes = await attempts(bench, payload)

    assert isinstance(outcomes[-1], Succeeded)
    assert outcomes[-1].output == "tool_error"
    assert bench.calls == ["a", "b", "b"]


async def test_a_handler_runs_and_its_output_stands_for_the_step(bench: Bench) -> None:
    handler = step(id="rescue", with_={"why": "${error.message}", "who": "${error.details.name}"})
    payload = steps(
        flaky("a", 99, retryable=False, on_error=handler), output="${steps.a} ${steps.a.who}"
    )

    outcome = await bench.execute(payload)

    assert isinstance(outcome, Succeeded)
    assert outcome.output == '{"why":"a said no","who":"a"} a'
    assert [(r.step_id, r.status) for r in outcome.steps] == [
        ("rescue", "succeeded"),
        ("a", "failed"),
    ]


async def test_a_handler_that_fails_is_tried_again_without_the_step(bench: Bench) -> None:
    payload = steps(flaky("a", 99, retryable=False, on_error=flaky("h", 2)), output="${steps.a}")

    outcomes = await attempts(bench, payload)

    assert [type(o) for o in outcomes] == [Failed, Failed, Succeeded]
    assert [o.step_id for o in outcomes[:2]] == ["h", "h"]
    assert outcomes[-1].output == "h"
    assert bench.calls == ["a", "h", "h", "h"]


async def test_a_handler_may_have_a_handler(bench: Bench) -> None:
    inner = step(id="last", with_={"why": "${error.message}"})
    handler = flaky("h", 99, retryable=False, on_error=inner)

    outcome = await bench.execute(
        steps(flaky("a", 99, retryable=False, on_error=handler), output="${steps.a.why}")
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == "h said no"


async def test_a_handler_may_wait_for_a_person(bench: Bench) -> None:
    handler = {"id": "ask", "wait_for": {"approval": "go on without? ${error.message}"}}
    payload = steps(flaky("a", 99, retryable=False, on_error=handler), output="${steps.a.by}")

    first = await bench.execute(payload)
    assert isinstance(first, Suspended)
    assert first.waits[0].message == "go on without? a said no"
    bench.answer("ask", {"approved": True, "by": "Ada"})
    second = await bench.execute(payload)

    assert isinstance(second, Succeeded)
    assert second.output == "Ada"
    assert bench.calls == ["a"]


async def test_a_template_error_is_handled_like_any_failure(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(
            step(id="a", with_={"x": "${params.nope}"}, on_error="continue"),
            output="${steps.a.error.code}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == "template_error"


async def test_no_retries_at_all(bench: Bench) -> None:
    bench.run = RunInfo(run_id=uuid7(), task_id=uuid7(), max_retries=0)

    (outcome,) = await attempts(bench, steps(flaky("a", 1)))

    assert isinstance(outcome, Failed)
