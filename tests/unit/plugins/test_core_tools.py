"""The tools of the core pack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from ordinaut.engine.tool import LogEntry, ToolContext
from ordinaut.errors import InvalidArguments, StepError, ToolError
from ordinaut.model import Json, uuid7
from ordinaut.plugins.base import Figures
from ordinaut.testing import ExtensionKit, extension_kit


class Recorder:
    """Services that note what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def publish(self, call: ToolContext, *, topic: str, payload: Json) -> None:
        self.asked.append((topic, payload))

    async def run_task(self, call: ToolContext, *, task_id: UUID, params: Json, wait: bool) -> Json:
        self.asked.append((task_id, params, wait))
        return {"run_id": "1"}

    async def figures(self) -> Figures:
        return Figures({}, {}, {})


@pytest.fixture(scope="module")
def services() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
async def kit(services: Recorder) -> AsyncIterator[ExtensionKit]:
    async with extension_kit("core", services=services) as one:
        yield one


async def test_log_writes_to_the_log_of_the_run(kit: ExtensionKit) -> None:
    assert await kit.call("core.log", {"message": "hello"}) == {
        "message": "hello",
        "level": "info",
    }
    await kit.call("core.log", {"message": {"a": "ș"}, "level": "warning"})
    lines = [(one.level, one.message) for one in kit.reports if isinstance(one, LogEntry)]
    assert lines[-2:] == [("info", "hello"), ("warning", '{"a": "ș"}')]


async def test_transform_returns_the_value_or_what_is_found_in_it(kit: ExtensionKit) -> None:
    value = {"items": [{"n": 1}, {"n": 2}]}
    assert await kit.call("core.transform", {"value": value}) == value
    found = await kit.call("core.transform", {"value": value, "expression": "items[].n"})
    assert found == [1, 2]
    assert await kit.call("core.transform", {"value": [3, 1], "expression": "sort(@)"}) == [1, 3]
    assert await kit.call("core.transform", {"value": {}, "expression": "nothing"}) is None


@pytest.mark.parametrize("expression", ["items[", "&x", "nope(@)", "sum(@)"])
async def test_an_expression_that_fails_says_where_and_is_not_retried(
    kit: ExtensionKit, expression: str
) -> None:
    with pytest.raises(ToolError) as failed:
        await kit.call("core.transform", {"value": {"a": 1}, "expression": expression})
    assert not failed.value.retryable
    assert repr(expression) in failed.value.message


@pytest.mark.parametrize("condition", [True, 0, "no", [0], {"a": None}])
async def test_an_assertion_holds_as_conditions_do(kit: ExtensionKit, condition: Any) -> None:
    assert await kit.call("core.assert", {"condition": condition}) == {"condition": condition}


@pytest.mark.parametrize("condition", [None, False, "", [], {}])
async def test_an_assertion_that_does_not_hold_fails_for_good(
    kit: ExtensionKit, condition: Any
) -> None:
    with pytest.raises(ToolError, match="the site is down") as failed:
        await kit.call("core.assert", {"condition": condition, "message": "the site is down"})
    assert not failed.value.retryable


async def test_sleep_can_be_cancelled(kit: ExtensionKit) -> None:
    sleeping = asyncio.create_task(kit.call("core.sleep", {"seconds": 3600}))
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert await kit.call("core.sleep", {"seconds": 0}) == {"seconds": 0}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("core.sleep", {"seconds": -1}),
        ("core.sleep", {"seconds": 3601}),
        ("core.sleep", {"seconds": "1"}),
        ("core.sleep", {}),
        ("core.log", {"message": "x", "level": "loud"}),
        ("core.log", {}),
        ("core.transform", {}),
        ("core.transform", {"value": 1, "expression": ""}),
        ("core.assert", {"message": "x"}),
        ("core.assert", {"condition": True, "else": 1}),
        ("event.publish", {}),
        ("event.publish", {"topic": "a b"}),
        ("task.run", {"task_id": "seven"}),
        ("task.run", {}),
    ],
)
async def test_arguments_that_make_no_sense_are_refused(
    kit: ExtensionKit, name: str, arguments: Any
) -> None:
    with pytest.raises(InvalidArguments):
        await kit.call(name, arguments)


async def test_the_doors_hand_over_what_they_were_given(
    kit: ExtensionKit, services: Recorder
) -> None:
    task = uuid7()
    await kit.call("event.publish", {"topic": "order.paid", "payload": [1]})
    await kit.call("task.run", {"task_id": str(task), "params": {"a": 1}, "wait": True})
    assert services.asked[-2:] == [("order.paid", [1]), (task, {"a": 1}, True)]


async def test_without_services_the_doors_are_closed() -> None:
    async with extension_kit("core") as closed:
        with pytest.raises(StepError, match="no database"):
            await closed.call("event.publish", {"topic": "a"})
