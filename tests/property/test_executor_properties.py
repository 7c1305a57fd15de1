"""A run that is interrupted anywhere, any number of times, ends as if it never was."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from ordinaut.clock import TravelClock
from ordinaut.engine.executor import execute
from ordinaut.engine.outcome import Outcome, RunInfo, Succeeded
from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.tool import Report, ToolContext
from ordinaut.errors import LeaseLost
from ordinaut.model import Json, StepRecord

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)


@dataclass
class Mortal:
    """A process that dies at the n-th thing it does: a call or a checkpoint.

    ``durable`` is what survives it, ``calls`` what the world outside saw.
    """

    deaths: list[int]
    durable: dict[tuple[str, int | None], StepRecord] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    after_record: list[str] = field(default_factory=list)
    _left: int = 1_000_000

    def start(self) -> None:
        self._left = self.deaths.pop() if self.deaths else 1_000_000

    def live(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise LeaseLost("died")

    async def checkpoint(self, records: Sequence[StepRecord]) -> None:
        self.live()
        for record in records:
            self.durable[record.step_id, record.index] = record
        self.live()

    async def begin(self, record: StepRecord) -> None:
        await self.checkpoint([record])

    def report(self, report: Report) -> None:
        raise AssertionError("no tool here reports")

    async def call(self, n: Json, context: ToolContext) -> Json:
        self.calls[context.idempotency_key] += 1
        known = self.durable.get((context.step_id, context.index))
        if known is not None and known.status == "succeeded":
            self.after_record.append(context.idempotency_key)
        await asyncio.sleep(0)
        return [context.step_id, context.index, n]


def payload(kinds: Sequence[str]) -> Json:
    pipeline: list[Json] = []
    for number, kind in enumerate(kinds):
        before = "${length(steps)}" if number else None
        one: dict[str, Any] = {"uses": "test.call", "id": f"s{number}", "with": {"n": before}}
        if kind == "items":
            one |= {"foreach": [1, 2, 3], "max_parallel": 2}
        elif kind == "group":
            members = [{"uses": "test.call", "with": {"n": n}} for n in range(3)]
            one = {"id": f"s{number}", "parallel": members}
        elif kind == "skipped":
            one["if"] = "params.nothing"
        pipeline.append(one)
    return {"pipeline": pipeline, "output": "${steps}"}


async def perform(mortal: Mortal, kinds: Sequence[str]) -> Outcome:
    registry = ToolRegistry()
    registry.register("test.call", mortal.call)
    pipeline = parse_pipeline(payload(kinds), registry=registry)
    while True:
        mortal.start()
        try:
            return await execute(
                pipeline,
                run=RunInfo(run_id=UUID(int=1), task_id=UUID(int=2)),
                registry=registry,
                journal=mortal,
                clock=TravelClock(NOW),
                done=list(mortal.durable.values()),
            )
        except LeaseLost:
            continue


def outputs(outcome: Outcome) -> Mapping[str, Json]:
    assert isinstance(outcome, Succeeded)
    assert isinstance(outcome.output, dict)
    return outcome.output


kinds = st.lists(st.sampled_from(["step", "items", "group", "skipped"]), min_size=1, max_size=10)


@settings(deadline=None)
@given(kinds=kinds, deaths=st.lists(st.integers(1, 40), max_size=5))
def test_interruptions_change_nothing_and_repeat_nothing_that_was_recorded(
    kinds: list[str], deaths: list[int]
) -> None:
    undisturbed, disturbed = Mortal([]), Mortal(list(deaths))

    expected = asyncio.run(perform(undisturbed, kinds))
    outcome = asyncio.run(perform(disturbed, kinds))

    assert outputs(outcome) == outputs(expected)
    assert set(undisturbed.calls.values()) <= {1}
    assert disturbed.after_record == []
    assert set(disturbed.calls) == set(undisturbed.calls)
    assert max(disturbed.calls.values(), default=0) <= 1 + len(deaths)
