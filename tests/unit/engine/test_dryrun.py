"""A dry run shows what would be called, and calls nothing but pure tools."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench import Bench, step, steps

from ordinaut.engine.dryrun import DryRun, render_steps
from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.model import Json


@pytest.fixture
def bench() -> Bench:
    bench = Bench()

    async def double(n: int) -> int:
        bench.calls.append("pure")
        return n * 2

    async def typed(url: str) -> None:
        bench.calls.append("not pure")

    bench.tool("test.double", double, effect="pure")
    bench.tool("test.typed", typed)
    return bench


async def rehearse(bench: Bench, payload: Json, **options: Any) -> DryRun:
    return await render_steps(
        parse_pipeline(payload, registry=bench.registry),
        run=bench.run,
        registry=bench.registry,
        clock=bench.clock,
        **options,
    )


async def test_pure_tools_are_called_and_others_only_shown(bench: Bench) -> None:
    shown = await rehearse(
        bench,
        steps(
            step("test.double", id="a", with_={"n": "${params.n}"}),
            step("test.typed", id="b", with_={"url": "x/${steps.a}"}),
            step(id="c", with_={"known": "${steps.a}", "not": ["y ${steps.b.z}", "${now+1h}"]}),
            output={"a": "${steps.a}", "c": "${steps.c}"},
        ),
        params={"n": 21},
    )

    assert bench.calls == ["pure"]
    assert [s.to_json() for s in shown.steps] == [
        {
            "id": "a",
            "path": "payload.pipeline[0]",
            "status": "called",
            "uses": "test.double",
            "with": {"n": 21},
            "output": 42,
        },
        {
            "id": "b",
            "path": "payload.pipeline[1]",
            "status": "would_call",
            "uses": "test.typed",
            "with": {"url": "x/42"},
        },
        {
            "id": "c",
            "path": "payload.pipeline[2]",
            "status": "unknown",
            "uses": "test.echo",
            "with": {"known": 42, "not": ["y ${steps.b.z}", "2026-03-01T11:00:00Z"]},
            "unknown": ["b"],
        },
    ]
    assert shown.output == {"a": 42, "c": "${steps.c}"}
    assert shown.unknown == ("c",)


async def test_what_happens_after_a_failure_is_shown(bench: Bench) -> None:
    shown = await rehearse(
        bench,
        steps(
            step("test.double", id="a", with_={"n": "${params.x}"}, on_error="continue"),
            step(
                "test.double",
                id="b",
                with_={"n": "${params.x}"},
                on_error=step("test.double", with_={"n": "${length(error.code)}"}),
            ),
            step("test.double", id="c", with_={"n": "${params.x}"}, on_error=step()),
            output=["${steps.a.error.code}", "${steps.b}", "${steps.c}"],
        ),
        params={},
    )

    a, b, c = (one.to_json() for one in shown.steps)
    assert (a["status"], a["error"]["path"]) == ("failed", "payload.pipeline[0].with.n")
    (handler,) = b["steps"]
    assert (b["output"], handler["id"], handler["status"]) == (28, "b_on_error", "called")
    assert (c["steps"][0]["status"], "output" in c) == ("would_call", False)
    assert shown.output == ["template_error", 28, "${steps.c}"]
    assert shown.unknown == ("c",)


async def test_secrets_are_placeholders(bench: Bench) -> None:
    shown = await rehearse(bench, steps(step(with_={"key": "Bearer ${secrets.TOKEN}"})))

    assert shown.steps[0].arguments == {"key": "Bearer ***"}


async def test_conditions_waits_groups_and_loops(bench: Bench) -> None:
    shown = await rehearse(
        bench,
        steps(
            step(id="no", if_="params.nothing"),
            {"id": "w", "wait_for": {"approval": "Pay ${params.n}?"}},
            step(id="maybe", if_="steps.w.approved"),
            {"id": "g", "parallel": [step("test.double", id="d", with_={"n": 1}), step(id="e")]},
            step("test.double", id="loop", foreach="params.items", with_={"n": "${item}"}),
            step(id="many", foreach="params.many", if_="item", with_={"d": "${steps.d}"}),
            step(id="dark", foreach="steps.e.items"),
            params={"n": 7, "items": [1, 2], "many": list(range(50))},
        ),
    )

    by_id = {s.id: s for s in shown.steps}
    assert [s.status for s in shown.steps] == [
        "skipped", "would_wait", "unknown", "unknown", "called", "would_call", "unknown",
    ]  # fmt: skip
    assert by_id["w"].wait == {"kind": "approval", "message": "Pay 7?"}
    assert by_id["maybe"].unknown == ("w",)
    assert [s.status for s in by_id["g"].steps] == ["called", "would_call"]
    assert by_id["loop"].output == [2, 4]
    assert by_id["many"].items == 50
    assert len(by_id["many"].steps) == 10
    assert by_id["many"].steps[0].arguments == {"d": 2}
    assert by_id["dark"].unknown == ("e",)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (step(with_={"a": "${params.nope}"}), "template_error"),
        (step("test.typed", with_={"url": "${params.n}"}), "invalid_arguments"),
        (step("test.double", with_={"n": "${params.text}"}), "invalid_arguments"),
        (step(with_="${params.n}"), "invalid_arguments"),
        (step(foreach="params.n"), "step_failed"),
        (step(if_="params.n > 'a'"), "template_error"),
    ],
)
async def test_what_would_fail_is_shown_and_the_rest_goes_on(
    bench: Bench, bad: Json, code: str
) -> None:
    shown = await rehearse(
        bench, steps({**bad, "id": "bad"}, step(id="next")), params={"n": 1, "text": "x"}
    )

    assert [s.status for s in shown.steps] == ["failed", "would_call"]
    assert shown.steps[0].error["code"] == code


async def test_an_output_that_would_fail_is_shown(bench: Bench) -> None:
    shown = await rehearse(bench, steps(step(), output="${params.nope}"))

    assert shown.to_json()["error"]["code"] == "template_error"
