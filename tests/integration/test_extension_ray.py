"""ray.run and ray.map on a Ray of this machine; only where the extra ``ray`` is installed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ordinaut.engine.tool import ProgressReport
from ordinaut.errors import ToolError
from ordinaut.testing import ExtensionKit, extension_kit

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

MODULE = """
import os, time
def square(n, plus=0): return n * n + plus
def where(): return os.getpid()
def fails(n=0):
    if n != 1: return n
    raise ValueError("no")
def sleeps(path):
    open(path, "w").close()
    time.sleep(60)
def marked(n, path):
    open(f"{path}/{n}", "w").close()
    if n == 0: raise ValueError("first")
    time.sleep(60)
"""
NAMES = ("square", "where", "fails", "sleeps", "marked")


@pytest.fixture(scope="module")
async def kit(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ExtensionKit]:
    place = tmp_path_factory.mktemp("functions")
    (place / "ray_rules.py").write_text(MODULE)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{place}{os.pathsep}{before}"  # for the processes of Ray
    functions = {name: f"ray_rules:{name}" for name in NAMES} | {"gone": "ray_rules:gone"}
    config = {"address": "local", "functions": json.dumps(functions)}
    async with extension_kit("ray", config=config) as one:
        yield one
    os.environ["PYTHONPATH"] = before


async def test_a_function_runs_in_another_process(kit: ExtensionKit) -> None:
    assert await kit.call("ray.run", {"function": "square", "args": [7]}) == 49
    assert await kit.call("ray.run", {"function": "where"}) != os.getpid()


async def test_a_fan_out_keeps_the_order_and_reports_its_progress(kit: ExtensionKit) -> None:
    arguments = {"function": "square", "items": [3, 1, 2], "kwargs": {"plus": 1}}
    assert await kit.call("ray.map", arguments) == [10, 2, 5]
    reports = [one.fraction for one in kit.reports if isinstance(one, ProgressReport)]
    assert reports[-1] == 1.0
    assert await kit.call("ray.map", {"function": "square", "items": []}) == []


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ray.run", {"function": "fails", "args": [1]}, "ValueError"),
        ("ray.run", {"function": "gone"}, "AttributeError"),
        ("ray.run", {"function": "os.system"}, "no function"),
        ("ray.map", {"function": "fails", "items": [0, 1, 2]}, "ValueError"),
    ],
)
async def test_a_function_that_fails_fails_the_step(
    kit: ExtensionKit, name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ToolError, match=message):
        await kit.call(name, arguments)


async def test_a_cancelled_step_ends_the_work_on_the_cluster(
    kit: ExtensionKit, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    running = asyncio.create_task(kit.call("ray.run", {"function": "sleeps", "args": [str(begun)]}))
    for _ in range(1000):
        if begun.exists():
            break
        await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    # All processors of the cluster are free again.
    everything = {"function": "square", "args": [2], "num_cpus": os.cpu_count()}
    async with asyncio.timeout(30):
        assert await kit.call("ray.run", everything) == 4
