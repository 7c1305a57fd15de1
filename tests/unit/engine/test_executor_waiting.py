"""wait_for: the run is suspended, and goes on when time, an event or a person allows it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from enginebench import START, Bench, step, steps

from ordinaut.engine.outcome import Failed, Succeeded, Suspended
from ordinaut.engine.tool import NotYet, ToolContext
from ordinaut.engine.waiting import Wait
from ordinaut.errors import WaitRefused
from ordinaut.model import Json


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def suspended(bench: Bench, payload: Json, **options: Any) -> Suspended:
    outcome = await bench.execute(payload, **options)
    assert isinstance(outcome, Suspended), outcome
    return outcome


@pytest.mark.parametrize(
    ("wait_for", "until"),
    [
        ("1h", timedelta(hours=1)),
        ("PT1H30M", timedelta(minutes=90)),
        ("1d 2h", timedelta(hours=26)),
        ({"duration": 90}, timedelta(seconds=90)),
        ({"duration": 0.5}, timedelta(seconds=0.5)),
        ({"duration": "${params.pause}"}, timedelta(seconds=5)),
        ("2026-03-01T13:00:00+02:00", timedelta(hours=1)),
        ({"instant": "2026-03-01T11:00:00Z"}, timedelta(hours=1)),
        ({"until": "${now+7d}"}, timedelta(days=7)),
    ],
)
async def test_a_run_waits_for_a_time(bench: Bench, wait_for: Json, until: timedelta) -> None:
    payload = steps(
        step(id="a"), {"id": "w", "wait_for": wait_for}, step(id="b"), params={"pause": "5s"}
    )

    first = await suspended(bench, payload)
    assert first.until == START + until
    assert [(r.step_id, r.status) for r in first.steps] == [("w", "waiting")]
    bench.clock.set(START + until - timedelta(milliseconds=1))
    early = await suspended(bench, payload)
    assert (early.until, early.steps) == (first.until, ())
    bench.clock.set(START + until)
    last = await bench.execute(payload)

    assert isinstance(last, Succeeded)
    assert len(bench.calls) == 2


async def test_an_instant_that_is_past_does_not_suspend(bench: Bench) -> None:
    outcome = await bench.execute(
        steps({"id": "w", "wait_for": "2020-01-01T00:00:00Z"}, output="${steps.w.until}")
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == "2026-03-01T10:00:00Z"


async def test_a_run_waits_for_an_event(bench: Bench) -> None:
    payload = steps(
        {
            "id": "paid",
            "wait_for": {
                "event": "order.${params.order}.paid",
                "filter": "payload.amount > `5`",
                "timeout": "2d",
            },
        },
        output="${steps.paid.payload.amount}",
        params={"order": 7},
    )

    first = await suspended(bench, payload)
    assert first.waits == (
        Wait(
            step_id="paid",
            kind="event",
            until=START + timedelta(days=2),
            topic="order.7.paid",
            filter="payload.amount > `5`",
        ),
    )
    bench.answer("paid", {"topic": "order.7.paid", "payload": {"amount": 9}})
    second = await bench.execute(payload)

    assert isinstance(second, Succeeded)
    assert second.output == 9


APPROVALS: list[Json] = [
    {"id": "ok", "wait_for": {"approval": {"message": "Pay ${params.n}?", "scope": "pay"}}},
    {"id": "ok", "wait_for": {"approval": "Pay ${params.n}?", "scope": "pay"}},
    step("approval.request", id="ok", with_={"message": "Pay ${params.n}?", "scope": "pay"}),
]


@pytest.mark.parametrize("ask", APPROVALS)
async def test_a_run_waits_for_a_person_for_a_month(bench: Bench, ask: Json) -> None:
    payload = steps(step(id="a"), ask, step(id="b"), params={"n": 7}, output="${steps.ok}")
    answer = {"approved": True, "by": "Ada", "note": "fine"}

    first = await suspended(bench, payload)
    assert first.waits == (Wait(step_id="ok", kind="approval", message="Pay 7?", scope="pay"),)
    assert first.until is None
    bench.travel(days=31)
    await suspended(bench, payload)
    bench.answer("ok", answer)
    last = await bench.execute(payload)

    assert isinstance(last, Succeeded)
    assert last.output == answer
    assert len(bench.calls) == 2


async def test_a_rejection_is_a_failure_that_names_who_and_why(bench: Bench) -> None:
    payload = steps({"id": "ok", "wait_for": "approval"}, step())
    await suspended(bench, payload)
    bench.answer("ok", {"approved": False, "by": "Ada", "note": "too much"})

    outcome = await bench.execute(payload)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, WaitRefused)
    assert "rejected by Ada: too much" in str(outcome.error)
    assert not outcome.error.retryable
    assert bench.calls == []


async def test_a_rejection_can_be_handled(bench: Bench) -> None:
    payload = steps(
        {"id": "ok", "wait_for": "approval", "on_error": "continue"},
        step(if_="steps.ok.approved", with_={"paid": True}),
        step(if_="!steps.ok.approved", with_={"paid": False}),
    )
    await suspended(bench, payload)
    bench.answer("ok", {"approved": False})

    outcome = await bench.execute(payload)

    assert isinstance(outcome, Succeeded)
    assert bench.calls == [{"paid": False}]


@pytest.mark.parametrize("kind", ["event", "approval"])
async def test_what_does_not_come_in_time_is_a_failure(bench: Bench, kind: str) -> None:
    payload = steps({"id": "w", "wait_for": {kind: "x", "timeout": "1d"}}, step())
    await suspended(bench, payload)
    bench.travel(days=1)

    outcome = await bench.execute(payload)

    assert isinstance(outcome, Failed)
    assert f"the {kind} did not come before 2026-03-02T10:00:00Z" in str(outcome.error)
    assert outcome.error.code == "wait_refused"


async def test_an_answer_in_time_counts_although_the_run_resumes_later(bench: Bench) -> None:
    payload = steps({"id": "w", "wait_for": {"approval": "?", "timeout": "1d"}})
    await suspended(bench, payload)
    bench.answer("w", {"approved": True})
    bench.travel(days=5)

    assert isinstance(await bench.execute(payload), Succeeded)


async def test_a_step_may_wait_and_then_call(bench: Bench) -> None:
    payload = steps(
        step(id="a", wait_for="1h", if_="now < '2026-03-01T10:30:00Z'", with_={"at": "${now}"}),
        output="${steps.a.at}",
    )

    first = await suspended(bench, payload)
    assert first.steps[0].step_id == "a:wait"
    bench.travel(hours=2)
    second = await bench.execute(payload)

    assert isinstance(second, Succeeded)
    assert second.output == "2026-03-01T12:00:00Z"
    assert [(r.step_id, r.status) for r in second.steps] == [
        ("a:wait", "succeeded"),
        ("a", "succeeded"),
    ]


async def test_a_call_that_fails_after_its_wait_does_not_wait_again(bench: Bench) -> None:
    async def sometimes() -> None:
        bench.calls.append("call")
        if len(bench.calls) == 1:
            raise RuntimeError("no")

    bench.tool("test.sometimes", sometimes)
    payload = steps(step("test.sometimes", id="a", wait_for={"approval": "?"}))
    await suspended(bench, payload)
    bench.answer("a:wait", {"approved": True})

    assert isinstance(await bench.execute(payload), Failed)
    assert isinstance(await bench.execute(payload), Succeeded)


class Other:
    """A tool that waits for another run."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.output: Json = None
        self.keys: list[str] = []

    async def wait(self, *, context: ToolContext) -> Json:
        self.keys.append(context.idempotency_key)
        if self.output is None:
            until = context.now + timedelta(minutes=1)
            raise NotYet("run 7 goes on", since=START, until=until)
        return self.output


@pytest.mark.parametrize("keys", [{}, {"foreach": ["x"]}, {"timeout_seconds": 7200}])
async def test_a_run_that_waits_for_another_is_suspended_and_calls_again(
    bench: Bench, keys: Json
) -> None:
    other = Other(bench)
    bench.tool("test.wait", other.wait)
    payload = steps(step(id="a"), step("test.wait", id="b", **keys), output="${steps.b}")

    first = await suspended(bench, payload)
    assert first.until == START + timedelta(minutes=1)
    assert [(w.kind, w.step_id, w.message) for w in first.waits] == [("run", "b", "run 7 goes on")]
    bench.travel(minutes=1)
    second = await suspended(bench, payload)
    assert second.until == START + timedelta(minutes=2)
    other.output = "done"
    last = await bench.execute(payload)

    assert isinstance(last, Succeeded)
    assert last.output == (["done"] if "foreach" in keys else "done")
    assert len(set(other.keys)) == 1
    assert len(bench.calls) == 1  # step a
    assert last.steps[-1].attempt == 1


async def test_the_time_of_a_step_that_waits_for_another_run_goes_on(bench: Bench) -> None:
    bench.tool("test.wait", Other(bench).wait)
    payload = steps(step("test.wait", timeout_seconds=90, max_retries=0))

    await suspended(bench, payload)
    bench.travel(minutes=1)
    assert (await suspended(bench, payload)).until == START + timedelta(seconds=90)
    bench.travel(seconds=30)
    last = await bench.execute(payload)

    assert isinstance(last, Failed)
    assert str(last.error) == "run 7 goes on for more than 90 s"


@pytest.mark.parametrize("keys", [{}, {"uses": "test.echo"}])
async def test_a_run_that_is_retried_after_a_rejection_asks_anew(bench: Bench, keys: Json) -> None:
    payload = steps({"id": "a", "wait_for": "approval", **keys}, output="${steps}")
    waits = "a:wait" if keys else "a"
    await suspended(bench, payload)
    bench.answer(waits, {"approved": False})
    assert isinstance(await bench.execute(payload), Failed)

    await suspended(bench, payload)
    bench.answer(waits, {"approved": True})

    assert isinstance(await bench.execute(payload), Succeeded)


async def test_a_wait_whose_condition_is_false_is_skipped(bench: Bench) -> None:
    outcome = await bench.execute(steps({"id": "w", "if": "params.ask", "wait_for": "approval"}))

    assert isinstance(outcome, Succeeded)
    assert outcome.steps[0].status == "skipped"


@pytest.mark.parametrize("given", ["soon", 5, None, "P1M", "2026-03-01", "99999d"])
async def test_a_time_that_can_not_be_read_is_an_error(bench: Bench, given: Json) -> None:
    outcome = await bench.execute(
        steps({"wait_for": {"duration": "${params.pause}"}}), params={"pause": given}
    )

    assert isinstance(outcome, Failed)
    assert outcome.error.path.startswith("payload.pipeline[0].wait_for")
