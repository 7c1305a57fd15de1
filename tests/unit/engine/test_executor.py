"""A run executes its steps in order, checkpoints each and never repeats one that ended."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from enginebench import START, Bench, MemoryJournal, step, steps

from ordinaut.engine.executor import execute
from ordinaut.engine.outcome import Failed, RunInfo, Succeeded
from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.errors import InvalidArguments, LeaseLost
from ordinaut.model import StepRecord, uuid7


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_steps_run_in_order_and_see_what_came_before(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(
            step(id="first", with_={"n": "${params.n}"}),
            step(id="second", save_as="again", with_={"seen": "${steps.first.n}"}),
            params={"n": 7},
            output="${steps.again.seen} and ${steps.second.seen}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == "7 and 7"
    assert bench.calls == [{"n": 7}, {"seen": 7}]


async def test_every_step_but_the_last_is_checkpointed_before_the_next(bench: Bench) -> None:
    outcome = await bench.execute(steps(step(id="a"), step(id="b"), step(id="c")))

    assert [[r.step_id for r in batch] for batch in bench.journal.checkpoints] == [["a"], ["b"]]
    assert [record.step_id for record in outcome.steps] == ["c"]


async def test_a_lost_lease_stops_the_run_at_once(bench: Bench) -> None:
    bench.journal.lose_after = 0

    with pytest.raises(LeaseLost):
        await bench.execute(steps(step(id="a"), step(id="b")))

    assert len(bench.calls) == 1


async def test_a_step_that_ended_is_not_called_again(bench: Bench) -> None:
    flaky = iter([RuntimeError("not yet"), None])

    async def sometimes() -> str:
        if (error := next(flaky)) is not None:
            raise error
        return "done"

    bench.tool("test.sometimes", sometimes)
    payload = steps(step(id="a", with_={"n": 1}), step("test.sometimes", id="b"), output="${steps}")

    first = await bench.execute(payload)
    second = await bench.execute(payload)

    assert isinstance(first, Failed)
    assert first.error.retryable
    assert isinstance(second, Succeeded)
    assert second.output == {"a": {"n": 1}, "b": "done"}
    assert bench.calls == [{"n": 1}]
    assert second.steps[-1].attempt == 2


async def test_a_run_whose_steps_all_ended_only_renders_its_output(bench: Bench) -> None:
    payload = steps(step(id="a", with_={"n": 1}), output="${steps.a.n}")
    await bench.execute(payload)

    again = await bench.execute(payload)

    assert again == Succeeded(1, ())
    assert len(bench.calls) == 1


async def test_a_resumed_run_sees_what_the_first_attempt_saw(bench: Bench) -> None:
    payload = steps(step(id="a"), step(id="b"), step(id="c", with_={"all": "${steps}"}))
    bench.journal.lose_after = 1
    with pytest.raises(LeaseLost):
        await bench.execute(payload)
    bench.journal.lose_after = None

    outcome = await bench.execute(payload)

    assert isinstance(outcome, Succeeded)
    # "b" ended, but its checkpoint was refused: it is called again.
    assert bench.calls == [{}, {}, {}, {"all": {"a": {}, "b": {}}}]


async def test_a_step_whose_condition_is_false_is_skipped_with_null(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(
            step(id="a", if_="params.nothing", with_={"n": 1}),
            step(id="b", if_="${!steps.a}", with_={"n": 2}),
            output="${steps}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == {"a": None, "b": {"n": 2}}
    assert [r.status for r in (*bench.journal.records, *outcome.steps)] == ["skipped", "succeeded"]


async def test_a_skipped_step_is_not_decided_again(bench: Bench) -> None:
    payload = steps(
        step(id="late", if_="now > '2026-03-01T12:00:00Z'"),
        step(id="b", if_="now > '2026-03-01T12:00:00Z' || steps.late == `null`"),
        step("test.fails", id="c"),
    )
    fails = iter([True, False])

    async def sometimes() -> None:
        if next(fails):
            raise RuntimeError

    bench.tool("test.fails", sometimes)
    await bench.execute(payload)
    bench.clock.set(START + timedelta(days=1))

    assert isinstance(await bench.execute(payload), Succeeded)
    assert bench.calls == [{}]


async def test_a_condition_that_fails_fails_the_step_with_its_position(bench: Bench) -> None:
    outcome = await bench.execute(steps(step(if_="params.n > 'a'"), params={"n": 1}))

    assert isinstance(outcome, Failed)
    assert outcome.error.code == "template_error"
    assert outcome.error.path == "payload.pipeline[0].if"
    assert outcome.error.details["position"] == 9
    assert not outcome.error.retryable


async def test_what_expressions_see(bench: Bench) -> None:
    bench.run = RunInfo(
        run_id=UUID(int=1),
        task_id=UUID(int=2),
        attempt=3,
        trigger="event",
        scheduled_for=START,
        task={"title": "Mail"},
    )

    outcome = await bench.execute(
        steps(step(with_={"all": "${@}", "now": "${now}"}), params={"a": 1, "b": 1}),
        event={"topic": "mail.received", "payload": {"from": "x"}},
        params={"b": 2, "c": 3},
    )

    assert isinstance(outcome, Succeeded)
    assert bench.calls == [
        {
            "all": {
                "params": {"a": 1, "b": 2, "c": 3},
                "steps": {},
                "event": {"topic": "mail.received", "payload": {"from": "x"}},
                "events": [{"topic": "mail.received", "payload": {"from": "x"}}],
                "task": {"id": str(UUID(int=2)), "title": "Mail"},
                "run": {
                    "id": str(UUID(int=1)),
                    "attempt": 3,
                    "trigger": "event",
                    "scheduled_for": "2026-03-01T10:00:00Z",
                },
            },
            "now": "2026-03-01T10:00:00Z",
        }
    ]


async def test_a_template_error_names_path_and_nearest_name(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(step(id="fetch", with_={"body": 1}), step(with_={"url": "${steps.fetch.boddy}"}))
    )

    assert isinstance(outcome, Failed)
    assert outcome.error.path == "payload.pipeline[1].with.url"
    assert 'steps.fetch has no "boddy"; did you mean "body"?' in str(outcome.error)
    (record,) = outcome.steps
    assert record.status == "failed"
    assert record.error["code"] == "template_error"
    assert record.error["details"]["expression"] == "steps.fetch.boddy"


async def test_an_output_that_can_not_be_rendered_fails_the_run(bench: Bench) -> None:
    outcome = await bench.execute(steps(step(id="a"), output={"x": "${steps.a.nope}"}))

    assert isinstance(outcome, Failed)
    assert (outcome.error.path, outcome.step_id) == ("payload.output.x", None)
    assert [record.step_id for record in outcome.steps] == ["a"]


async def test_arguments_are_validated_after_rendering(bench: Bench) -> None:
    async def typed(n: int) -> None:
        bench.calls.append(n)

    bench.tool("test.typed", typed)
    payload = steps(step("test.typed", with_={"n": "${params.n}"}))

    wrong = await bench.execute(payload, params={"n": "seven"})
    bench.known.clear()
    right = await bench.execute(payload, params={"n": 7})

    assert isinstance(wrong, Failed)
    assert isinstance(wrong.error, InvalidArguments)
    assert wrong.error.path == "payload.pipeline[0].with.n"
    assert '"seven" is not of type "integer"' in str(wrong.error)
    assert isinstance(right, Succeeded)
    assert bench.calls == [7]


async def test_arguments_may_be_one_expression(bench: Bench) -> None:
    payload = steps(step(with_="${params.arguments}"))

    await bench.execute(payload, params={"arguments": {"a": [1]}})
    bench.known.clear()
    wrong = await bench.execute(payload, params={"arguments": [1]})

    assert bench.calls == [{"a": [1]}]
    assert isinstance(wrong, Failed)
    assert "an array, not an object" in str(wrong.error)


async def test_a_tool_that_changes_its_arguments_changes_nothing_else(bench: Bench) -> None:
    async def greedy(arguments: dict[str, Any]) -> None:
        arguments["list"].append("more")
        arguments["seen"]["more"] = True
        bench.calls.append(arguments)

    bench.tool("test.greedy", greedy)
    payload = steps(
        step(id="a", with_={"n": 1}),
        step("test.greedy", with_={"list": [1], "seen": "${steps.a}"}),
        output="${steps.a}",
    )

    first = await bench.execute(payload)
    bench.known.clear()
    bench.journal.checkpoints.clear()
    second = await bench.execute(payload)

    assert isinstance(first, Succeeded)
    assert isinstance(second, Succeeded)
    assert first.output == second.output == {"n": 1}
    assert bench.calls[1] == bench.calls[3]


async def test_a_tool_that_is_gone_is_waited_for(bench: Bench) -> None:
    pipeline = parse_pipeline(steps(step()), registry=bench.registry)
    bench.registry.unregister("test.echo")

    outcome = await execute(
        pipeline,
        run=bench.run,
        registry=bench.registry,
        journal=bench.journal,
        clock=bench.clock,
    )

    assert isinstance(outcome, Failed)
    assert outcome.error.retryable
    assert 'no tool "test.echo" on this worker' in str(outcome.error)


async def test_records_say_when_and_what(bench: Bench) -> None:
    async def slow() -> None:
        bench.clock.move(timedelta(seconds=5))

    bench.tool("test.slow", slow)

    outcome = await bench.execute(steps(step("test.slow")))

    assert outcome.steps == (
        StepRecord(
            "step_1", "succeeded", 1, START, START + timedelta(seconds=5), "test.slow", None, None
        ),
    )


async def test_a_parsed_pipeline_serves_many_runs_at_once(bench: Bench) -> None:
    pipeline = parse_pipeline(
        steps(step(id="a", with_={"n": "${params.n}"}), output="${steps.a.n}"),
        registry=bench.registry,
    )

    outcomes = await asyncio.gather(
        *(
            execute(
                pipeline,
                run=RunInfo(run_id=uuid7(), task_id=uuid7()),
                registry=bench.registry,
                journal=MemoryJournal(),
                clock=bench.clock,
                given={"params": {"n": n}},
            )
            for n in range(50)
        )
    )

    assert [o.output for o in outcomes if isinstance(o, Succeeded)] == list(range(50))
