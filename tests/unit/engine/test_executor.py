"""A run executes its steps in order, checkpoints each and never repeats one that ended."""

from __future__ import annotations

import pytest
from enginebench import Bench, step, steps

from ordinaut.engine.outcome import Failed, Succeeded
from ordinaut.errors import LeaseLost


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
