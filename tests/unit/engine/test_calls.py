"""Whatever a tool does, the step has an output or an error, and the worker lives on."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import pytest
from enginebench import Bench, step, steps
from pydantic import BaseModel

from ordinaut.engine import calls
from ordinaut.engine.outcome import Failed, Succeeded, Suspended
from ordinaut.engine.tool import LogEntry, Progress, ProgressReport, ToolContext
from ordinaut.errors import InvalidOutput, StepTimeout, ToolError, Unavailable, WaitRefused
from ordinaut.model import Json


class Letter(BaseModel):
    to: str
    sent: date


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def output_of(bench: Bench, fn: Any, arguments: Json = None, **options: Any) -> Json:
    bench.tool("test.tool", fn, **options)
    outcome = await bench.execute(
        steps(step("test.tool", id="a", with_=arguments or {}), output="${steps.a}")
    )
    assert isinstance(outcome, Succeeded), outcome
    return outcome.output


async def error_of(bench: Bench, fn: Any, keys: Json = None, **options: Any) -> Failed:
    bench.tool("test.tool", fn, **options)
    outcome = await bench.execute(steps(step("test.tool", id="a", **(keys or {}))))
    assert isinstance(outcome, Failed), outcome
    return outcome


# How tools are called


async def test_async_sync_and_generator_tools_are_the_same_to_a_pipeline(bench: Bench) -> None:
    async def one(n: int) -> int:
        return n

    def two(n: int) -> int:
        return n

    async def three(n: int) -> AsyncIterator[Any]:
        yield Progress(0.5, "half")
        yield "not the last"
        yield n

    for name, fn in (("test.one", one), ("test.two", two), ("test.three", three)):
        bench.tool(name, fn)
    outcome = await bench.execute(
        steps(
            *(step(f"test.{name}", id=name, with_={"n": 7}) for name in ("one", "two", "three")),
            output="${steps}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert outcome.output == {"one": 7, "two": 7, "three": 7}
    (report,) = bench.journal.reports
    assert isinstance(report, ProgressReport)
    assert (report.step_id, report.fraction, report.message) == ("three", 0.5, "half")


async def test_a_sync_tool_runs_in_a_thread(bench: Bench) -> None:
    def which() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await output_of(bench, which) is False


async def test_a_sync_tool_that_returns_a_coroutine_is_awaited(bench: Bench) -> None:
    async def inner(n: int) -> int:
        return n

    assert await output_of(bench, lambda n: inner(n), {"n": 3}, input_schema={}) == 3


async def test_a_partial_is_a_tool(bench: Bench) -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    assert await output_of(bench, functools.partial(add, b=2), {"a": 1}) == 3


async def test_types_are_converted_both_ways(bench: Bench) -> None:
    async def post(letter: Letter) -> Letter:
        assert isinstance(letter, Letter)
        return letter

    given = {"letter": {"to": "x", "sent": "2026-03-01"}}
    assert await output_of(bench, post, given) == given["letter"]


async def test_what_a_tool_knows_of_its_call(bench: Bench) -> None:
    async def tell(context: ToolContext) -> Json:
        return {
            "key": context.idempotency_key,
            "step": context.step_id,
            "index": context.index,
            "attempt": context.attempt,
            "now": context.now.isoformat(),
            "cancelled": context.cancelled,
        }

    assert await output_of(bench, tell) == {
        "key": f"{bench.run.run_id}:a",
        "step": "a",
        "index": None,
        "attempt": 1,
        "now": "2026-03-01T10:00:00+00:00",
        "cancelled": False,
    }


async def test_logs_and_progress_reach_the_journal_from_threads_too(bench: Bench) -> None:
    def work(context: ToolContext) -> None:
        context.log("info", "began\0", n=1, what=object)
        context.progress(1)

    await output_of(bench, work)
    await asyncio.sleep(0)

    entry, report = bench.journal.reports
    assert isinstance(entry, LogEntry)
    assert (entry.level, entry.message, entry.step_id) == ("info", "began\ufffd", "a")
    assert entry.fields == {"n": 1, "what": "<class 'object'>"}
    assert isinstance(report, ProgressReport)
    assert report.fraction == 1.0


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
async def test_progress_is_between_zero_and_one(bench: Bench, fraction: float) -> None:
    async def work(context: ToolContext) -> None:
        context.progress(fraction)

    assert "between 0 and 1" in str((await error_of(bench, work)).error)


# What tools may return


def cyclic() -> Json:
    value: list[Any] = []
    value.append(value)
    return value


def deep(depth: int) -> Json:
    value: Json = 1
    for _ in range(depth):
        value = {"a": value}
    return value


class Text(str):
    pass


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (float("nan"), "nan is not a JSON number"),
        ({"a": [1, float("inf")]}, "at output.a[1]: inf is not a JSON number"),
        (b"bytes", "a Python bytes is not JSON"),
        ({1, 2}, "a Python set"),
        ((1, 2), "a Python tuple"),
        ({"at": datetime.now(UTC)}, "at output.at: a Python datetime"),
        ({"id": uuid4()}, "a Python UUID"),
        ({1: "a"}, "a key that is a number"),
        ({"a": object()}, "a Python object"),
        (Text("x"), "a Python Text"),
        ("a\0b", "NUL"),
        ({"a\0": 1}, "NUL"),
        (["\ud800"], "at output[0]: a string holds a lone surrogate"),
        (2**63, "64 bits"),
        (cyclic(), "deeper than 64"),
        (deep(65), "deeper than 64"),
        ("x" * 2_000_000, "larger than"),
        (["x" * 1000] * 2000, "larger than"),
        ([[[["x" * 100] * 100] * 100] * 100], "larger than"),
        (float, "a Python type"),
    ],
)
async def test_what_is_not_json_is_the_error_of_the_step(
    bench: Bench, output: Any, message: str
) -> None:
    async def give() -> Any:
        return output

    outcome = await error_of(bench, give)

    assert isinstance(outcome.error, InvalidOutput)
    assert message in str(outcome.error)
    assert not outcome.error.retryable


@pytest.mark.parametrize(
    "output",
    [None, True, 0, -1.5, "", "ș€🐍", [], {}, {"a": [None, {"b": ""}]}, deep(64), 2**63 - 1],
)
async def test_what_is_json_is_kept_as_it_is(bench: Bench, output: Json) -> None:
    async def give() -> Any:
        return output

    bench.tool("test.give", give)
    outcome = await bench.execute(steps(step("test.give")))

    assert outcome.steps[0].output == output
    assert type(outcome.steps[0].output) is type(output)


async def test_an_output_is_a_copy(bench: Bench) -> None:
    kept: dict[str, Any] = {"n": [1]}

    async def give() -> Any:
        return kept

    bench.tool("test.give", give)
    outcome = await bench.execute(steps(step("test.give")))
    kept["n"].append(2)

    assert outcome.steps[0].output == {"n": [1]}


async def test_an_output_schema_is_a_promise(bench: Bench) -> None:
    async def give() -> Any:
        return {"status": "200"}

    schema = {"properties": {"status": {"type": "integer"}}}
    outcome = await error_of(bench, give, output_schema=schema)

    assert isinstance(outcome.error, InvalidOutput)
    assert "output.status" in str(outcome.error)


async def test_a_result_that_is_not_its_own_type_is_an_error(bench: Bench) -> None:
    async def give() -> Letter:
        return 5  # type: ignore[return-value]  # what is tested

    assert isinstance((await error_of(bench, give)).error, InvalidOutput)


# How tools fail


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("raised", "message", "retryable"),
    [
        (RuntimeError("boom"), 'tool "test.tool" failed: RuntimeError: boom', True),
        (RuntimeError(), 'tool "test.tool" failed: RuntimeError', True),
        (Unprintable(), "can not be read", True),
        (KeyboardInterrupt(), "KeyboardInterrupt", True),
        (SystemExit(3), "SystemExit: 3", True),
        (StopAsyncIteration("x"), "StopAsyncIteration", True),
        (StopIteration("x"), "StopIteration", True),
        (TimeoutError("its own"), "TimeoutError: its own", True),
        (asyncio.CancelledError(), "cancelled itself", True),
        (RecursionError("deep"), "RecursionError", True),
        (MemoryError(), "MemoryError", True),
        (BaseExceptionGroup("group", [SystemExit()]), "BaseExceptionGroup", True),
        (RuntimeError("x\0y\ud800" + "z" * 10_000), "x\ufffdy?", True),
        (ToolError("not found"), "not found", False),
        (ToolError("busy", retryable=True), "busy", True),
        (Unavailable("no database"), "no database", True),
    ],
)
@pytest.mark.parametrize("kind", ["async", "sync", "generator"])
async def test_whatever_a_tool_raises_is_recorded(
    bench: Bench, raised: BaseException, message: str, retryable: bool, kind: str
) -> None:
    async def one() -> None:
        raise raised

    def two() -> None:
        raise raised

    async def three() -> AsyncIterator[int]:
        yield 1
        raise raised

    outcome = await error_of(bench, {"async": one, "sync": two, "generator": three}[kind])

    assert message in str(outcome.error)
    assert outcome.error.retryable is retryable
    assert outcome.error.path == "payload.pipeline[0]"
    (record,) = outcome.steps
    assert record.status == "failed"
    assert len(record.error["message"]) < 9000
    assert "\0" not in record.error["message"]


async def test_details_of_an_error_are_kept_when_they_are_json(bench: Bench) -> None:
    async def fail(good: bool) -> None:
        details: Any = {"status": 404, "body": ["x"]} if good else {"response": object()}
        raise ToolError("no", details=details)

    bench.tool("test.fail", fail)
    good = await bench.execute(steps(step("test.fail", id="a", with_={"good": True})))
    bad = await bench.execute(steps(step("test.fail", id="b", with_={"good": False})))

    assert good.steps[0].error["details"] == {"status": 404, "body": ["x"]}
    assert "can not be stored" in bad.steps[0].error["details"]["lost"]


# Time


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_tool_that_does_not_end_in_time_is_stopped(bench: Bench) -> None:
    outcome = await error_of(bench, forever, {"timeout_seconds": 0.01})

    assert isinstance(outcome.error, StepTimeout)
    assert outcome.error.retryable
    assert "did not end within 0.01 s" in str(outcome.error)


async def test_the_time_of_the_tool_holds_unless_the_step_has_its_own(bench: Bench) -> None:
    async def nap() -> str:
        await asyncio.sleep(0.02)
        return "rested"

    outcome = await error_of(bench, nap, timeout=0.001)
    assert isinstance(outcome.error, StepTimeout)

    again = await bench.execute(steps(step("test.tool", id="b", timeout_seconds=5)))
    assert isinstance(again, Succeeded)


async def test_a_tool_that_hides_its_cancellation_timed_out_all_the_same(bench: Bench) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("something else") from None

    outcome = await error_of(bench, stubborn, {"timeout_seconds": 0.01})

    assert isinstance(outcome.error, StepTimeout)


async def test_a_tool_that_ignores_its_cancellation_is_left_after_a_grace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "GRACE", 0.02)
    go, asked = asyncio.Event(), 0

    async def stubborn() -> str:
        nonlocal asked
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                asked += 1
        return "done all the same"

    outcome = await error_of(bench, stubborn, {"timeout_seconds": 0.01})

    assert isinstance(outcome.error, StepTimeout)
    assert asked == 1
    (left,) = calls._left
    go.set()
    assert await left == ("done all the same", None)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt()])
async def test_a_tool_with_a_time_limit_does_not_end_the_worker_either(
    bench: Bench, raised: BaseException
) -> None:
    async def leave() -> None:
        raise raised

    outcome = await error_of(bench, leave, {"timeout_seconds": 5})

    assert outcome.error.details == {"exception": type(raised).__name__}


async def test_a_thread_is_told_that_nobody_waits(bench: Bench) -> None:
    started, seen = threading.Event(), threading.Event()

    def work(context: ToolContext) -> None:
        started.set()
        while not context.cancelled:
            pass
        seen.set()

    outcome = await error_of(bench, work, {"timeout_seconds": 0.05})

    assert isinstance(outcome.error, StepTimeout)
    assert await asyncio.to_thread(seen.wait, 5)


@pytest.mark.parametrize("more", [{}, {"timeout_seconds": 60}])
async def test_the_cancellation_of_the_run_passes_through(bench: Bench, more: Any) -> None:
    entered = asyncio.Event()
    contexts: list[ToolContext] = []

    async def wait(context: ToolContext) -> None:
        contexts.append(context)
        entered.set()
        await asyncio.Event().wait()

    bench.tool("test.wait", wait)
    payload = steps(step("test.wait", on_error="continue", **more))
    running = asyncio.ensure_future(bench.execute(payload))
    await entered.wait()
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert contexts[0].cancelled


# Effects


async def test_an_at_most_once_call_is_announced_before_it_is_made(bench: Bench) -> None:
    async def pay() -> str:
        assert [record.status for record in bench.journal.begun] == ["running"]
        return "paid"

    assert await output_of(bench, pay, effect="at_most_once") == "paid"


async def die_within(bench: Bench, payload: Json) -> None:
    """Execute until the tool ``test.pay`` was called once, and let the worker die there."""
    entered = asyncio.Event()

    async def pay() -> None:
        bench.calls.append("pay")
        entered.set()
        await asyncio.Event().wait()

    bench.tool("test.pay", pay, effect="at_most_once")
    dying = asyncio.ensure_future(bench.execute(payload))
    async with asyncio.timeout(5):
        await entered.wait()
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying


@pytest.mark.parametrize("keys", [{}, {"on_error": "continue"}, {"on_error": step()}])
async def test_an_at_most_once_call_in_flight_is_never_repeated(bench: Bench, keys: Json) -> None:
    """The worker died inside the call: its marker is there, its end is not."""
    payload = steps(step("test.pay", id="pay", **keys), step())
    await die_within(bench, payload)

    outcome = await bench.execute(payload)

    assert isinstance(outcome, Suspended)
    [wait] = outcome.waits
    assert (wait.step_id, wait.kind, wait.until) == ("pay", "effect_unknown", None)
    assert "may or may not have happened" in str(wait.message)
    again = await bench.execute(payload)  # whatever else wakes the run
    assert isinstance(again, Suspended)
    assert (again.waits, again.steps) == ((wait,), ())
    assert bench.calls == ["pay"]


async def test_of_a_call_in_doubt_a_person_may_say_what_it_returned(bench: Bench) -> None:
    payload = steps(step("test.pay", id="pay"), output="${steps.pay.receipt}")
    await die_within(bench, payload)
    await bench.execute(payload)

    bench.answer("pay", {"receipt": 7})

    outcome = await bench.execute(payload)
    assert isinstance(outcome, Succeeded)
    assert outcome.output == 7
    assert bench.calls == ["pay"]


def reject(bench: Bench, step_id: str) -> None:
    """Answer the question of a call in doubt with no."""
    [asked] = [r for r in bench.known if (r.step_id, r.status) == (step_id, "waiting")]
    said = {"approved": False, "by": "Ada", "note": "it is lost"}
    bench.known.remove(asked)
    bench.known.append(
        asked._replace(status="failed", output=None, error={**asked.error, "details": said})
    )


@pytest.mark.parametrize(
    ("on_error", "output"), [("continue", "wait_refused"), (step(id="mend"), "none")]
)
async def test_of_a_call_in_doubt_a_person_may_say_that_it_failed(
    bench: Bench, on_error: Json, output: Json
) -> None:
    payload = steps(
        step("test.pay", id="pay", on_error=on_error), output="${steps.pay.error.code || 'none'}"
    )
    await die_within(bench, payload)
    await bench.execute(payload)

    reject(bench, "pay")

    outcome = await bench.execute(payload)
    assert isinstance(outcome, Succeeded)
    assert outcome.output == output
    assert bench.calls.count("pay") == 1


async def test_a_rejected_call_fails_its_run_by_default(bench: Bench) -> None:
    payload = steps(step("test.pay", id="pay"))
    await die_within(bench, payload)
    await bench.execute(payload)

    reject(bench, "pay")

    outcome = await bench.execute(payload)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, WaitRefused)
    assert "rejected by Ada: it is lost" in str(outcome.error)
    assert bench.calls == ["pay"]


async def test_each_item_in_doubt_is_a_question_of_its_own(bench: Bench) -> None:
    payload = steps(step("test.pay", id="pay", foreach=[1, 2, 3]), output="${steps.pay}")
    await die_within(bench, payload)

    outcome = await bench.execute(payload)

    assert isinstance(outcome, Suspended)
    assert [(wait.step_id, wait.index) for wait in outcome.waits] == [("pay", 0)]
    assert [(record.status, record.index) for record in outcome.steps] == [("waiting", 0)]


async def test_an_idempotent_call_in_flight_is_repeated_with_the_same_key(bench: Bench) -> None:
    entered = asyncio.Event()

    async def post(context: ToolContext) -> None:
        bench.calls.append(context.idempotency_key)
        if len(bench.calls) == 1:
            entered.set()
            await asyncio.Event().wait()

    bench.tool("test.post", post)
    payload = steps(step("test.post"))
    dying = asyncio.ensure_future(bench.execute(payload))
    await entered.wait()
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying

    assert isinstance(await bench.execute(payload), Succeeded)
    assert bench.calls == [f"{bench.run.run_id}:step_1"] * 2


@pytest.mark.parametrize("raised", [RuntimeError("boom"), asyncio.CancelledError()])
async def test_an_unexplained_failure_of_an_at_most_once_call_is_final(
    bench: Bench, raised: BaseException
) -> None:
    async def pay() -> None:
        raise raised

    assert not (await error_of(bench, pay, effect="at_most_once")).error.retryable


async def test_a_timeout_of_an_at_most_once_call_leaves_its_effect_unknown(bench: Bench) -> None:
    bench.tool("test.pay", forever, effect="at_most_once")

    outcome = await bench.execute(steps(step("test.pay", timeout_seconds=0.01)))

    assert isinstance(outcome, Suspended)
    assert outcome.waits[0].kind == "effect_unknown"


async def test_an_at_most_once_tool_may_say_that_nothing_happened(bench: Bench) -> None:
    async def pay() -> None:
        bench.calls.append("pay")
        if len(bench.calls) == 1:
            raise ToolError("refused before it was sent", retryable=True)

    bench.tool("test.pay", pay, effect="at_most_once")

    first = await bench.execute(steps(step("test.pay")))
    second = await bench.execute(steps(step("test.pay")))

    assert isinstance(first, Failed)
    assert first.error.retryable
    assert isinstance(second, Succeeded)


# Secrets

TOKEN = "s3cr3t-t0ken"


async def test_secrets_reach_the_tool_and_nothing_else(bench: Bench) -> None:
    bench.secrets = {"TOKEN": TOKEN, "OTHER": "other-value"}

    async def leak(arguments: dict[str, Any], context: ToolContext) -> Any:
        bench.calls.append(dict(arguments))
        context.log("info", f"sending {arguments['key']}", key=arguments["key"])
        context.progress(0.5, arguments["key"])
        return {"echo": [arguments["key"]], arguments["key"]: 1}

    bench.tool("test.leak", leak)
    outcome = await bench.execute(
        steps(
            step("test.leak", id="a", with_={"key": "Bearer ${secrets.TOKEN}"}), output="${steps}"
        )
    )

    assert isinstance(outcome, Succeeded)
    assert bench.calls == [{"key": f"Bearer {TOKEN}"}]
    assert TOKEN not in repr((outcome, bench.journal.records, bench.journal.reports))
    assert outcome.output == {"a": {"echo": ["Bearer [secret]"], "Bearer [secret]": 1}}


@pytest.mark.parametrize("how", ["tool error", "crash", "arguments", "output", "typed output"])
async def test_secrets_are_not_in_errors(
    bench: Bench, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.secrets = {"TOKEN": TOKEN}

    async def fail(arguments: dict[str, Any]) -> Any:
        if how == "tool error":
            raise ToolError(f"no {arguments['key']}", details={"sent": arguments})
        if how == "crash":
            raise RuntimeError(arguments["key"])
        return arguments["key"]

    options: Any = {"arguments": {"input_schema": {"properties": {"key": {"type": "integer"}}}},
                    "output": {"output_schema": {"type": "integer"}}}.get(how, {})  # fmt: skip
    if how == "typed output":
        options = {"output_schema": {"enum": [TOKEN[:3]]}}
    bench.tool("test.fail", fail, **options)
    outcome = await bench.execute(steps(step("test.fail", with_={"key": "${secrets.TOKEN}"})))

    assert isinstance(outcome, Failed)
    assert TOKEN not in repr((outcome, outcome.error.args, outcome.error.details))
    assert TOKEN not in caplog.text


async def test_a_missing_secret_is_named(bench: Bench) -> None:
    bench.secrets = {"TOKEN": TOKEN}

    outcome = await bench.execute(
        steps(step(with_={"a": "${secrets.TOKEN}", "b": "${secrets.TOKN}"}))
    )

    assert isinstance(outcome, Failed)
    assert 'there is no secret "TOKN"' in str(outcome.error)
    assert TOKEN not in repr(outcome.steps)
    assert bench.calls == []
