"""Everything about a pipeline that can be checked without running it is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from enginebench import Bench, step, steps

from ordinaut.engine.pipeline import MAX_STEPS, parse_pipeline
from ordinaut.engine.registry import ToolRegistry
from ordinaut.errors import InvalidPipeline

CASES = json.loads((Path(__file__).parents[2] / "data" / "pipeline_problems.json").read_text())


async def request(
    url: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    timeout: float | None = None,  # noqa: ASYNC109
) -> None:
    """Stand for a tool with arguments of its own."""


@pytest.fixture
def registry() -> ToolRegistry:
    bench = Bench()
    bench.tool("http.request", request)
    return bench.registry


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_bad_pipelines_are_refused_at_the_place(
    case: dict[str, Any], registry: ToolRegistry
) -> None:
    with pytest.raises(InvalidPipeline) as caught:
        parse_pipeline(case["payload"], registry=registry)

    found = [(p.path, p.message.split("\n")[0]) for p in caught.value.problems]
    assert found == [(p["path"], p["message"]) for p in case["problems"]]
    assert caught.value.problems[0].path in str(caught.value)


GOOD = [
    steps({"uses": "test.noop"}),
    steps(step(with_={"a": "${params.not_known_yet}"}), params={}),
    steps(step("http.request", with_="${params.arguments}")),
    steps(step("http.request", with_={"url": "${params.url}"})),
    steps(step("http.request", with_={"url": "x", "headers": "${params.headers}"})),
    steps(step(id="fetch-all"), step(with_={"a": '${steps."fetch-all".x}'})),
    steps(step(id="a", save_as="a"), step(with_={"a": "${steps.a}"})),
    steps(step(if_=True), step(if_="${steps.step_1}"), step(if_="now > params.start")),
    steps(step(foreach="params.items", with_={"n": "${item.n}", "i": "${index}"}, if_="item.ok")),
    steps(step(foreach=["a", "${params.b}"], max_parallel=5)),
    steps({"parallel": [step(id="a"), step(id="b")]}, step(with_={"x": "${steps.a}"})),
    steps({"parallel": [{"parallel": [step(), step()]}, step()]}),
    steps(step(on_error="continue"), step(on_error=step(with_={"why": "${error.message}"}))),
    steps(step(foreach="params.x", on_error=step(with_={"i": "${item}", "why": "${error.code}"}))),
    steps({"wait_for": "24h"}, {"wait_for": "PT1H30M"}, {"wait_for": "2026-03-01T10:00:00Z"}),
    steps({"wait_for": {"duration": 90}}, {"wait_for": {"instant": "${params.at}"}}),
    steps({"wait_for": {"until": "${now+1d}"}}, {"wait_for": "approval"}),
    steps({"wait_for": {"event": "mail.*", "filter": "payload.from == 'x'", "timeout": "1d"}}),
    steps({"wait_for": {"event": {"topic": "order.${params.id}", "timeout": "1d"}}}),
    steps({"wait_for": {"approval": {"message": "Pay ${params.n}?", "scope": "pay"}}}),
    steps(step(wait_for={"approval": "go on?"}, with_={"a": 1})),
    steps(step("approval.request", id="ok", with_={"message": "go on?", "timeout": "30d"})),
    steps(step(with_={"key": "${secrets.API_KEY}", "text": "Bearer ${secrets.TOKEN}"})),
    steps(step(timeout_seconds=0.5, max_retries=0, backoff="fixed")),
    steps(step(backoff={"strategy": "linear", "seconds": 5})),
    steps(step(), output={"all": "${steps}", "one": "${steps.step_1}"}),
    steps(step(), params=None) | {"params": {}},
]


@pytest.mark.parametrize("payload", GOOD, ids=lambda payload: json.dumps(payload)[:80])
def test_good_pipelines_are_accepted(payload: Any, registry: ToolRegistry) -> None:
    parse_pipeline(payload, registry=registry)


def test_steps_are_numbered_from_one() -> None:
    pipeline = parse_pipeline(
        steps(step(), {"parallel": [step(), step()]}, step(on_error=step())), registry=None
    )

    assert [s.id for s in pipeline.walk()] == [
        "step_1", "step_2", "step_2_1", "step_2_2", "step_3", "step_3_on_error",
    ]  # fmt: skip


def test_without_a_registry_tools_are_not_checked() -> None:
    parse_pipeline(steps(step("nobody.knows", with_={"a": 1})), registry=None)


def test_there_is_a_limit_of_steps() -> None:
    parse_pipeline(steps(*[step()] * MAX_STEPS), registry=None)
    with pytest.raises(InvalidPipeline, match="501 steps are more than the limit of 500"):
        parse_pipeline(steps(*[step()] * (MAX_STEPS + 1)), registry=None)


def test_an_error_points_into_the_expression() -> None:
    with pytest.raises(InvalidPipeline) as caught:
        parse_pipeline(steps(step(if_="length(steps.nope.items) > `1`")), registry=None)

    (problem,) = caught.value.problems
    assert problem.message == (
        'unknown step "nope"\n'
        "  length(steps.nope.items) > `1`\n"
        "               ^"
    )  # fmt: skip
