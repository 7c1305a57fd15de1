"""A journal in memory and a run to execute, for the tests of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ordinaut.clock import TravelClock
from ordinaut.engine.executor import execute, no_secrets
from ordinaut.engine.outcome import Outcome, RunInfo
from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.tool import Report
from ordinaut.errors import LeaseLost
from ordinaut.model import Json, StepRecord, uuid7

START = datetime(2026, 3, 1, 10, tzinfo=UTC)


@dataclass
class MemoryJournal:
    """Keeps what the run writes down; ``lose_after`` checkpoints the lease is lost."""

    checkpoints: list[tuple[StepRecord, ...]] = field(default_factory=list)
    begun: list[StepRecord] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    lose_after: int | None = None
    written: asyncio.Event = field(default_factory=asyncio.Event)

    async def checkpoint(self, records: Sequence[StepRecord]) -> None:
        if self.lose_after is not None and len(self.checkpoints) >= self.lose_after:
            raise LeaseLost("another worker owns the run")
        self.checkpoints.append(tuple(records))
        self.written.set()

    async def begin(self, record: StepRecord) -> None:
        self.begun.append(record)

    def report(self, report: Report) -> None:
        self.reports.append(report)

    @property
    def records(self) -> list[StepRecord]:
        """All records that are durable, in order."""
        return [*self.begun, *(record for batch in self.checkpoints for record in batch)]


@dataclass
class Bench:
    """A registry with recording tools, and everything a run needs besides."""

    registry: ToolRegistry = field(default_factory=ToolRegistry)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    clock: TravelClock = field(default_factory=lambda: TravelClock(START))
    run: RunInfo = field(default_factory=lambda: RunInfo(run_id=uuid7(), task_id=uuid7()))
    calls: list[Json] = field(default_factory=list)
    secrets: Mapping[str, str] = field(default_factory=dict)
    known: list[StepRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def echo(arguments: dict[str, Json]) -> Json:
            self.calls.append(arguments)
            return arguments

        async def noop() -> None:
            self.calls.append("noop")

        self.registry.register("test.echo", echo)
        self.registry.register("test.noop", noop)

    def tool(self, name: str, fn: Any, **options: Any) -> None:
        """Register a tool."""
        self.registry.register(name, fn, **options)

    async def execute(self, payload: Json, **given: Json) -> Outcome:
        """Execute a payload, or go on with what the run wrote down before."""
        pipeline = parse_pipeline(payload, registry=self.registry)
        outcome = await execute(
            pipeline,
            run=self.run,
            registry=self.registry,
            journal=self.journal,
            clock=self.clock,
            done=[*self.known, *self.journal.records],
            secrets=self._secrets if self.secrets else no_secrets,
            given=given,
        )
        self.known.extend(outcome.steps)
        return outcome

    def answer(self, step_id: str, answer: Json) -> None:
        """Answer what a suspended run waits for, as the API or an event would."""
        waiting = next(r for r in self.known if r.step_id == step_id and r.status == "waiting")
        self.known.remove(waiting)
        self.known.append(
            waiting._replace(status="succeeded", finished_at=self.clock.now(), output=answer)
        )

    def travel(self, **by: float) -> None:
        """Let time pass."""
        self.clock.move(timedelta(**by))

    async def _secrets(self, names: frozenset[str]) -> Mapping[str, str]:
        return {name: self.secrets[name] for name in names if name in self.secrets}


def step(uses: str = "test.echo", **keys: Any) -> Json:
    """Return a step; ``with_``, ``if_`` stand for the keys that Python reserves."""
    return {"uses": uses, **{key.rstrip("_"): value for key, value in keys.items()}}


def steps(*chosen: Json, **payload: Any) -> Json:
    """Return a payload of these steps."""
    return {"pipeline": list(chosen), **payload}
