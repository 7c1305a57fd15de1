"""foreach and parallel: bounded, in order, checkpointed in batches, resumed without repeats."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from enginebench import Bench, MemoryJournal, step, steps

from ordinaut.engine.outcome import Failed, Succeeded, Suspended
from ordinaut.engine.tool import ToolContext
from ordinaut.errors import LeaseLost, ToolError
from ordinaut.model import Json, StepRecord


@pytest.fixture
def bench() -> Bench:
    return Bench()


def each(uses: str, **keys: Any) -> Json:
    """Return a step that runs for each of ``params.items``."""
    return step(uses, foreach="params.items", with_={"n": "${item}"}, **keys)


class Gauge:
    """A tool that counts how many calls run at once."""

    def __init__(self) -> None:
        self.running = self.most = self.total = 0

    async def __call__(self, n: int) -> int:
        self.running += 1
        self.total += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return n * 10


async def test_the_output_is_the_list_in_order(bench: Bench) -> None:
    async def late_first(n: int) -> int:
        for _ in range(10 - n):
            await asyncio.sleep(0)
        return n

    bench.tool("test.late", late_first)
    for_each = step(
        "test.late", id="all", foreach="params.items", max_parallel=10, with_={"n": "${item}"}
    )

    outcome = await bench.execute(
        steps(for_each, params={"items": list(range(10))}, output="${steps.all}")
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == list(range(10))


async def test_items_see_item_and_index_and_keep_their_types(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(
            step(id="x", foreach="${params.items}", with_={"at": "${index}", "what": "${item.n}"}),
            params={"items": [{"n": 1.5}, {"n": None}, {"n": ["a"]}]},
        )
    )

    assert isinstance(outcome, Succeeded)
    assert bench.calls == [
        {"at": 0, "what": 1.5},
        {"at": 1, "what": None},
        {"at": 2, "what": ["a"]},
    ]


async def test_the_list_may_be_written_out(bench: Bench) -> None:
    await bench.execute(
        steps(step(foreach=["a", "${params.b}"], with_={"x": "${item}"}), params={"b": [1]})
    )

    assert bench.calls == [{"x": "a"}, {"x": [1]}]


async def test_no_items_yield_an_empty_list(bench: Bench) -> None:
    outcome = await bench.execute(steps(step(id="x", foreach="`[]`"), output="${steps.x}"))

    assert outcome.steps[0].output == []
    assert bench.calls == []


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_no_more_run_at_once_than_allowed(bench: Bench, limit: int) -> None:
    gauge = Gauge()
    bench.tool("test.gauge", gauge)

    await bench.execute(
        steps(each("test.gauge", max_parallel=limit), params={"items": list(range(40))})
    )

    assert gauge.most == min(limit, 40)
    assert gauge.total == 40


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"a": 1}, "it yields an object, not an array"),
        ("text", "it yields a string"),
        (None, "it yields null"),
        ([0] * 100_001, "100,001 items are more than 100,000"),
    ],
)
async def test_what_is_no_list_is_an_error(bench: Bench, items: Json, message: str) -> None:
    outcome = await bench.execute(steps(step(foreach="params.items")), params={"items": items})

    assert isinstance(outcome, Failed)
    assert message in str(outcome.error)
    assert outcome.error.path == "payload.pipeline[0].foreach"


async def test_a_missing_list_is_an_error(bench: Bench) -> None:
    outcome = await bench.execute(steps(step(foreach="params.itmes"), params={"items": []}))

    assert isinstance(outcome, Failed)
    assert 'params has no "itmes"; did you mean "items"?' in str(outcome.error)


async def test_a_condition_about_the_item_is_asked_for_each(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(
            step(id="x", foreach="params.items", if_="item.ok", with_={"n": "${item.n}"}),
            params={"items": [{"n": 1, "ok": True}, {"n": 2}, {"n": 3, "ok": True}]},
            output="${steps.x}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == [{"n": 1}, None, {"n": 3}]


async def test_any_other_condition_is_asked_once(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(step(id="x", foreach="params.nothing", if_="params.ok"), output="${steps}")
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == {"x": None}


async def test_many_items_are_written_down_in_batches(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(step("test.noop", foreach="params.items"), step("test.noop")),
        params={"items": list(range(1000))},
    )

    assert isinstance(outcome, Succeeded)
    sizes = [len(batch) for batch in bench.journal.checkpoints]
    assert sum(sizes) == 1001
    assert 8 <= len(sizes) <= 30
    assert bench.journal.records[-1].output == [None] * 1000


async def test_ten_thousand_items_leave_few_records_in_memory(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(step("test.noop", foreach="params.items", max_parallel=20)),
        params={"items": list(range(10_000))},
    )

    assert isinstance(outcome, Succeeded)
    assert max(len(batch) for batch in bench.journal.checkpoints) < 200
    assert len(outcome.steps) < 200


async def test_ten_thousand_items_take_no_more_memory_than_their_outputs(bench: Bench) -> None:
    """What remains is the list of outputs, about 300 bytes each; records leave in batches."""

    class Elsewhere(MemoryJournal):
        async def checkpoint(self, records: Sequence[StepRecord]) -> None:
            """Keep nothing here, as a journal in a database does."""

    async def echo(n: Json) -> Json:
        return {"n": n, "text": "x" * 100}

    bench.tool("test.wide", echo)
    bench.journal = Elsewhere()
    tracemalloc.start()
    try:
        outcome = await bench.execute(
            steps(step("test.wide", with_={"n": "${item}"}, foreach="params.items")),
            params={"items": list(range(10_000))},
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(outcome, Succeeded)
    assert peak < 12 * 1024 * 1024


async def test_each_at_most_once_item_is_written_down_before_the_next(bench: Bench) -> None:
    async def pay(n: int) -> None:
        durable = [r.index for r in bench.journal.records if r.status == "succeeded"]
        assert durable == list(range(n))
        bench.calls.append(n)

    bench.tool("test.pay", pay, effect="at_most_once")
    await bench.execute(steps(each("test.pay")), params={"items": [0, 1, 2]})

    assert bench.calls == [0, 1, 2]


async def test_a_member_of_a_group_that_ended_is_written_down_at_once(bench: Bench) -> None:
    async def wait() -> None:
        async with asyncio.timeout(5):
            await bench.journal.written.wait()

    bench.tool("test.wait", wait)
    outcome = await bench.execute(steps({"parallel": [step(id="a"), step("test.wait", id="b")]}))

    assert isinstance(outcome, Succeeded)
    assert [record.step_id for record in bench.journal.checkpoints[0]] == ["a"]


async def test_an_item_that_ended_does_not_wait_long_to_be_written_down(bench: Bench) -> None:
    """The second item runs on and on; the record of the first is durable meanwhile."""
    hold = asyncio.Event()

    async def work(n: int) -> None:
        if n == 1:
            await hold.wait()

    bench.tool("test.work", work)
    running = asyncio.ensure_future(
        bench.execute(steps(step("test.work", foreach=[0, 1], with_={"n": "${item}"})))
    )
    async with asyncio.timeout(5):
        await bench.journal.written.wait()
    hold.set()
    await running

    assert bench.journal.checkpoints[0][0].index == 0


async def test_a_resumed_foreach_goes_on_where_it_was(bench: Bench) -> None:
    async def sometimes(n: int, context: ToolContext) -> str:
        bench.calls.append((n, context.attempt, context.idempotency_key))
        if n == 2 and context.attempt == 1:
            raise RuntimeError("no")
        return f"done {n}"

    bench.tool("test.sometimes", sometimes)
    payload = steps(
        step("test.sometimes", id="x", foreach=[0, 1, 2, 3], with_={"n": "${item}"}),
        output="${steps.x}",
    )

    first = await bench.execute(payload)
    second = await bench.execute(payload)

    run = bench.run.run_id
    assert isinstance(first, Failed)
    assert (first.step_id, first.attempt, first.steps[-1].index) == ("x", 1, 2)
    assert isinstance(second, Succeeded)
    assert second.output == ["done 0", "done 1", "done 2", "done 3"]
    assert bench.calls == [
        (0, 1, f"{run}:x:0"),
        (1, 1, f"{run}:x:1"),
        (2, 1, f"{run}:x:2"),
        (2, 2, f"{run}:x:2"),
        (3, 1, f"{run}:x:3"),
    ]


async def test_items_that_run_beside_a_failure_are_awaited_and_kept(bench: Bench) -> None:
    async def work(n: int) -> int:
        bench.calls.append(n)
        if n == 0 and bench.calls.count(0) == 1:
            raise RuntimeError("no")
        await asyncio.sleep(0.01)
        return n

    bench.tool("test.work", work)
    payload = steps(
        step("test.work", id="x", foreach="params.items", max_parallel=3, with_={"n": "${item}"}),
        params={"items": list(range(6))},
        output="${steps.x}",
    )

    first = await bench.execute(payload)
    assert isinstance(first, Failed)
    assert sorted(bench.calls) == [0, 1, 2]
    second = await bench.execute(payload)

    assert isinstance(second, Succeeded)
    assert second.output == list(range(6))
    assert sorted(bench.calls) == [0, 0, 1, 2, 3, 4, 5]


async def test_continue_is_about_each_item(bench: Bench) -> None:
    async def odd(n: int) -> int:
        if n % 2:
            raise ToolError(f"{n} is odd")
        return n

    bench.tool("test.odd", odd)
    outcome = await bench.execute(
        steps(
            step(
                "test.odd", id="x", foreach=[0, 1, 2], with_={"n": "${item}"}, on_error="continue"
            ),
            output="${steps.x[*].error.message}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == ["1 is odd"]


async def test_a_handler_runs_for_the_item_that_failed(bench: Bench) -> None:
    async def fail() -> None:
        raise ToolError("no")

    bench.tool("test.fail", fail)
    handler = step(id="h", with_={"item": "${item}", "why": "${error.message}"})
    outcome = await bench.execute(
        steps(step("test.fail", id="x", foreach=["a", "b"], on_error=handler), output="${steps.x}")
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == [{"item": "a", "why": "no"}, {"item": "b", "why": "no"}]
    assert {(r.step_id, r.index) for r in outcome.steps} == {
        ("h", 0), ("h", 1), ("x", 0), ("x", 1), ("x", None),
    }  # fmt: skip


async def test_a_handler_of_an_item_that_fails_is_not_run_for_the_list(bench: Bench) -> None:
    async def fail(n: int) -> None:
        bench.calls.append(n)
        raise ToolError("no")

    bench.tool("test.fail", fail)
    handler = step("test.fail", with_={"n": "${item}"})
    outcome = await bench.execute(
        steps(each("test.fail", on_error=handler), params={"items": [7, 8]})
    )

    assert isinstance(outcome, Failed)
    assert bench.calls == [7, 7]


async def test_outputs_together_are_bounded(bench: Bench) -> None:
    async def large() -> str:
        return "x" * 900_000

    bench.tool("test.large", large)
    outcome = await bench.execute(
        steps(step("test.large", foreach="params.items"), params={"items": [0] * 20})
    )

    assert isinstance(outcome, Failed)
    assert "the outputs together" in str(outcome.error)


async def test_a_lost_lease_stops_all_items(bench: Bench) -> None:
    bench.journal.lose_after = 1
    gauge = Gauge()
    bench.tool("test.gauge", gauge)
    with pytest.raises(LeaseLost):
        await bench.execute(
            steps(
                step("test.gauge", foreach="params.items", max_parallel=5, with_={"n": "${item}"})
            ),
            params={"items": list(range(5000))},
        )

    total = gauge.total
    await asyncio.sleep(0.01)
    assert gauge.total == total < 1000


async def test_cancelling_the_run_cancels_its_items(bench: Bench) -> None:
    cancelled: list[int] = []
    entered = asyncio.Event()

    async def wait(n: int) -> None:
        try:
            if n == 2:
                entered.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(n)
            raise

    bench.tool("test.wait", wait)
    running = asyncio.ensure_future(
        bench.execute(
            steps(step("test.wait", foreach=[0, 1, 2], max_parallel=3, with_={"n": "${item}"}))
        )
    )
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert sorted(cancelled) == [0, 1, 2]


# Groups


async def test_a_group_runs_side_by_side(bench: Bench) -> None:
    meeting = asyncio.Barrier(3)

    async def meet(n: int) -> int:
        async with asyncio.timeout(5):
            await meeting.wait()
        return n

    bench.tool("test.meet", meet)
    members = [step("test.meet", id=f"m{n}", with_={"n": n}) for n in range(3)]
    outcome = await bench.execute(
        steps({"id": "g", "parallel": members}, output="${steps.g} ${steps.m1}")
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == '{"m0":0,"m1":1,"m2":2} 1'


async def test_the_output_of_a_group_is_by_name(bench: Bench) -> None:
    outcome = await bench.execute(
        steps(
            {
                "save_as": "both",
                "parallel": [step(id="a", save_as="x"), step(id="b", if_="`false`")],
            },
            step(with_={"x": "${steps.x}", "b": "${steps.b}"}),
            output="${steps.both}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == {"x": {}, "b": None}


async def test_the_members_of_a_group_that_is_skipped_are_null(bench: Bench) -> None:
    group = {
        "id": "g",
        "if": False,
        "parallel": [step(id="a", save_as="x"), {"parallel": [step()]}],
    }

    outcome = await bench.execute(steps(group, output="${steps}"))

    assert isinstance(outcome, Succeeded)
    assert outcome.output == {
        "g": None, "a": None, "x": None, "step_1_2": None, "step_1_2_1": None,
    }  # fmt: skip


async def test_a_group_resumes_with_what_has_not_ended(bench: Bench) -> None:
    async def sometimes() -> str:
        bench.calls.append("sometimes")
        if bench.calls.count("sometimes") == 1:
            raise RuntimeError("no")
        return "ok"

    bench.tool("test.sometimes", sometimes)
    payload = steps(
        {"id": "g", "parallel": [step(id="a"), step("test.sometimes", id="b"), step(id="c")]},
        output="${steps.g}",
    )

    first = await bench.execute(payload)
    second = await bench.execute(payload)

    assert isinstance(first, Failed)
    assert first.step_id == "b"
    assert isinstance(second, Succeeded)
    assert second.output == {"a": {}, "b": "ok", "c": {}}
    assert bench.calls.count({}) == 2


async def test_a_final_failure_in_a_group_counts_more_than_a_passing_one(bench: Bench) -> None:
    async def fail(retryable: bool) -> None:
        raise ToolError("no", retryable=retryable)

    bench.tool("test.fail", fail)
    members = [step("test.fail", with_={"retryable": r}) for r in (True, False, True)]

    outcome = await bench.execute(steps({"parallel": members}))

    assert isinstance(outcome, Failed)
    assert not outcome.error.retryable
    assert len(outcome.steps) == 3


async def test_a_group_may_hold_groups_loops_and_waits(bench: Bench) -> None:
    payload = steps(
        {
            "id": "g",
            "parallel": [
                step(id="loop", foreach=[1, 2], with_={"n": "${item}"}),
                {"id": "inner", "parallel": [step(id="deep")]},
                {"id": "pause", "wait_for": "1h"},
                {"id": "ask", "wait_for": "approval"},
            ],
        },
        output="${steps.g}",
    )

    first = await bench.execute(payload)
    assert isinstance(first, Suspended)
    assert [wait.step_id for wait in first.waits] == ["pause", "ask"]
    bench.answer("ask", {"approved": True})
    second = await bench.execute(payload)
    assert isinstance(second, Suspended)
    assert [wait.step_id for wait in second.waits] == ["pause"]
    bench.travel(hours=1)
    third = await bench.execute(payload)

    assert isinstance(third, Succeeded)
    assert third.output["loop"] == [{"n": 1}, {"n": 2}]
    assert third.output["ask"] == {"approved": True}
    assert len(bench.calls) == 3


@pytest.mark.parametrize("retryable", [False, True])
async def test_on_error_of_a_group_is_about_the_group(bench: Bench, retryable: bool) -> None:
    async def fail() -> None:
        raise ToolError("no", retryable=retryable)

    bench.tool("test.fail", fail)
    outcome = await bench.execute(
        steps(
            {"id": "g", "parallel": [step("test.fail", max_retries=0)], "on_error": "continue"},
            output="${steps.g.error.message}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == "no"
