"""python.call with functions that are installed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ordinaut.errors import StepError, ToolError
from ordinaut.testing import ExtensionKit, extension_kit

MODULE = """
import threading
LIMIT = 3
import os
def where(): return os.getpid()
def add(a, b=1): return {"sum": a + b, "thread": threading.current_thread().name}
async def greet(name): return f"Salut, {name}"
def fails(): raise ValueError("no")
def exits(): raise SystemExit(1)
class Price:
    @staticmethod
    def of(sku): return len(sku)
"""
FUNCTIONS = {
    "add": "shop_rules:add",
    "where": "shop_rules:where",
    "greet": "shop_rules:greet",
    "fails": "shop_rules:fails",
    "exits": "shop_rules:exits",
    "price": "shop_rules:Price.of",
    "limit": "shop_rules:LIMIT",
    "gone": "shop_rules:gone",
    "nowhere": "nowhere_at_all:f",
}

CONFIG = {"functions": json.dumps(FUNCTIONS), "in_processes": '["where"]'}


@pytest.fixture
async def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ExtensionKit]:
    (tmp_path / "shop_rules.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    async with extension_kit("python", config=CONFIG) as one:
        yield one
    sys.modules.pop("shop_rules", None)


async def call(kit: ExtensionKit, function: str, **given: Any) -> Any:
    return await kit.call("python.call", {"function": function, **given})


async def test_functions_are_called_with_json(kit: ExtensionKit) -> None:
    assert (await call(kit, "add", args=[1], kwargs={"b": 2}))["sum"] == 3
    assert await call(kit, "greet", kwargs={"name": "Ana"}) == "Salut, Ana"
    assert await call(kit, "price", args=["abc"]) == 3


async def test_what_computes_for_long_runs_in_a_process(kit: ExtensionKit) -> None:
    assert await call(kit, "where") != os.getpid()


async def test_a_synchronous_function_runs_in_a_thread(kit: ExtensionKit) -> None:
    assert (await call(kit, "add", args=[1]))["thread"] != "MainThread"


@pytest.mark.parametrize("function", ["os.system", "shop_rules:add", "other", ""])
async def test_what_is_not_listed_is_refused(kit: ExtensionKit, function: str) -> None:
    with pytest.raises(ToolError, match="no function") as refused:
        await call(kit, function)
    assert not refused.value.retryable


@pytest.mark.parametrize(
    ("function", "message"),
    [("limit", "is not a function"), ("gone", "can not be loaded"), ("nowhere", "can not be")],
)
async def test_a_list_that_is_wrong_says_so(kit: ExtensionKit, function: str, message: str) -> None:
    with pytest.raises(ToolError, match=message) as failed:
        await call(kit, function)
    assert not failed.value.retryable


async def test_arguments_that_do_not_fit_are_refused_for_good(kit: ExtensionKit) -> None:
    with pytest.raises(ToolError, match="missing a required argument: 'a'") as refused:
        await call(kit, "add")
    assert not refused.value.retryable


@pytest.mark.parametrize("function", ["fails", "exits"])
async def test_a_function_that_fails_fails_the_step(kit: ExtensionKit, function: str) -> None:
    with pytest.raises(StepError):
        await call(kit, function)
