"""Calls in processes of their own: real processes, real signals."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ordinaut.engine import calls
from ordinaut.engine.processes import ProcessDied, in_process, place_of
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.tool import Tool, ToolContext
from ordinaut.errors import EffectUnknown, InvalidInput, StepError, StepTimeout, ToolError

# --- What is called there ---------------------------------------------------------------------


def compute(n: int = 0) -> dict[str, int]:
    """Say where it was computed."""
    return {"pid": os.getpid(), "sum": sum(range(n))}


def spin(seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    raise SystemExit(3)


def refuse() -> None:
    raise ToolError("no more of it", retryable=False, details={"left": 0})


class Unreadable(Exception):
    def __init__(self, one: object, two: object) -> None:  # can not be made again from a pickle
        super().__init__()

    def __str__(self) -> str:
        raise RuntimeError("no words")


def fail() -> None:
    raise Unreadable(1, 2)


def unpicklable() -> Any:
    return lambda: None


def with_context(context: ToolContext) -> None:
    pass


async def asynchronous() -> None:
    pass


def tool(fn: Any, **fields: Any) -> Tool:
    return ToolRegistry().register("test.tool", fn, runs_in="process", **fields)


async def called(fn: Any, seconds: float | None = 30, **fields: Any) -> Any:
    return await calls.call(tool(fn, **fields), {}, seconds=seconds, context=None)


@pytest.fixture(autouse=True, scope="module")
async def _end_processes() -> AsyncIterator[None]:
    """End the kept processes before the loop ends, which would complain about them."""
    yield
    for child in psutil.Process().children():
        if "anyio.to_process" in child.cmdline():
            child.kill()
    await asyncio.sleep(0.2)


# --- Tests --------------------------------------------------------------------------------


async def test_a_function_runs_in_another_process_that_is_kept_for_the_next_call() -> None:
    first = await calls.call(tool(compute), {"n": 4}, seconds=30, context=None)
    again = await in_process(compute, n=5)
    assert (first["sum"], again["sum"]) == (6, 10)
    assert os.getpid() != first["pid"] == again["pid"]


async def test_the_loop_is_free_while_it_computes() -> None:
    ticks = 0
    task = asyncio.ensure_future(in_process(spin, 0.3))
    while not task.done():
        await asyncio.sleep(0.01)
        ticks += 1
    await task
    assert ticks > 2


async def test_a_call_out_of_time_is_ended_with_its_process() -> None:
    used = psutil.Process((await in_process(compute))["pid"])
    with pytest.raises(StepTimeout, match=r"did not end within 0.2 s"):
        await called(spin, 0.2)
    assert not used.is_running() or used.status() == psutil.STATUS_ZOMBIE


async def test_a_kept_process_that_has_ended_is_replaced() -> None:
    first = await in_process(compute)
    psutil.Process(first["pid"]).kill()
    while psutil.pid_exists(first["pid"]):  # noqa: ASYNC110  the loop collects it
        await asyncio.sleep(0.01)
    assert (await in_process(compute))["pid"] != first["pid"]


async def test_a_process_that_dies_fails_its_own_call_alone() -> None:
    with pytest.raises(StepError, match="killed, or out of memory") as caught:
        await called(die)
    assert caught.value.retryable
    assert (await in_process(compute, 3))["sum"] == 3


async def test_an_effect_that_may_have_happened_is_unknown() -> None:
    with pytest.raises(EffectUnknown, match="may or may not have happened"):
        await called(die, effect="at_most_once")


async def test_what_a_tool_says_itself_arrives_as_it_was_said() -> None:
    with pytest.raises(StepError, match="no more of it") as caught:
        await called(refuse)
    assert (caught.value.retryable, caught.value.details) == (False, {"left": 0})


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (fail, "Unreadable: .its message can not be read."),
        (leave, "SystemExit: 3"),
        (unpicklable, "pickle"),
    ],
)
async def test_any_other_fault_is_a_failure_with_its_name(fn: Any, says: str) -> None:
    with pytest.raises(StepError, match=says) as caught:
        await called(fn)
    assert caught.value.retryable


@pytest.mark.parametrize("fn", [with_context, asynchronous, lambda: None])
def test_what_another_process_can_not_call_is_refused(fn: Any) -> None:
    with pytest.raises(InvalidInput, match="function"):
        tool(fn)


def test_a_function_that_another_hides_is_refused() -> None:
    def compute() -> None:
        pass

    compute.__qualname__ = "compute"
    with pytest.raises(InvalidInput, match="another object"):
        place_of(compute)


async def test_a_module_of_a_folder_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text("def double(n):\n    return 2 * n\n")
    spec = importlib.util.spec_from_loader("foreign_sums", loader=None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    sys.modules["foreign_sums"] = importlib.util.module_from_spec(spec)
    module = importlib.import_module("foreign_sums.sums")
    assert await in_process(module.double, 21) == 42


def test_a_process_ends_with_its_worker(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_engine_processes import spin\n"
        "from ordinaut.engine.processes import in_process\n"
        "asyncio.run(in_process(spin))\n"
    )
    path = str(Path(__file__).parent)
    parent = psutil.Popen([sys.executable, "-c", code, path], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (children := parent.children()) or children[0].cpu_times().user < 0.5:
            assert time.monotonic() < deadline, "no process began to compute"
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


async def test_died_is_an_exception_of_its_own() -> None:
    with pytest.raises(ProcessDied):
        await in_process(die)
