"""What the engine itself costs: microseconds for a no-op run, a template, a condition.

python benchmarks/engine.py [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from ordinaut.clock import SystemClock
from ordinaut.engine.executor import execute
from ordinaut.engine.outcome import RunInfo, Succeeded
from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.steps import Pipeline
from ordinaut.engine.template import parse_condition, parse_template
from ordinaut.engine.tool import Report
from ordinaut.model import Json, StepRecord, uuid7

ROUNDS = 20_000
BEST_OF = 5


class NoJournal:
    """A journal that keeps nothing: only the engine is measured."""

    async def checkpoint(self, records: Sequence[StepRecord]) -> None:
        pass

    async def begin(self, record: StepRecord) -> None:
        pass

    def report(self, report: Report) -> None:
        pass


async def noop() -> None:
    pass


async def echo(arguments: dict[str, Json]) -> Json:
    return arguments


def registry() -> ToolRegistry:
    tools = ToolRegistry()
    tools.register("bench.noop", noop)
    tools.register("bench.echo", echo)
    return tools


def pipelines(tools: ToolRegistry) -> dict[str, Pipeline]:
    echo_step = {"uses": "bench.echo", "with": {"n": "${params.n}", "text": "run ${run.id}"}}
    chosen: dict[str, Json] = {
        "no-op step": {"pipeline": [{"uses": "bench.noop"}]},
        "no-op step with a timeout": {"pipeline": [{"uses": "bench.noop", "timeout_seconds": 30}]},
        "three steps, templates, a condition": {
            "params": {"n": 7},
            "pipeline": [
                {"id": "a", **echo_step},
                {"id": "b", **echo_step, "if": "steps.a.n == `7`"},
                {"uses": "bench.echo", "with": {"all": "${steps.b}"}},
            ],
            "output": "${steps.step_3.all.n}",
        },
        "foreach over 100 items": {
            "params": {"items": list(range(100))},
            "pipeline": [{"foreach": "params.items", "uses": "bench.noop", "max_parallel": 10}],
        },
    }
    return {name: parse_pipeline(payload, registry=tools) for name, payload in chosen.items()}


async def measure(work: Callable[[], Awaitable[Any]], rounds: int) -> float:
    """Return microseconds a call, the best of several rounds."""
    best = float("inf")
    for _ in range(BEST_OF):
        start = time.perf_counter()
        for _ in range(rounds):
            await work()
        best = min(best, time.perf_counter() - start)
    return best / rounds * 1e6


async def measure_runs() -> None:
    tools = registry()
    clock, journal, run = SystemClock(), NoJournal(), RunInfo(run_id=uuid7(), task_id=uuid7())
    for name, pipeline in pipelines(tools).items():

        async def once(pipeline: Pipeline = pipeline) -> None:
            outcome = await execute(pipeline, run=run, registry=tools, journal=journal, clock=clock)
            assert isinstance(outcome, Succeeded)

        rounds = ROUNDS // 50 if "foreach" in name else ROUNDS
        print(f"{name:40} {await measure(once, rounds):8.2f} us")


async def measure_expressions() -> None:
    now = datetime.now(UTC)
    context = {"params": {"n": 7}, "steps": {"a": {"body": {"items": [{"x": 1}, {"x": 2}]}}}}
    for text in ("plain", "${params.n}", "id ${params.n} of ${steps.a.body}",
                 "${steps.a.body.items[?x > `1`].x | [0]}", "${now+1d}"):  # fmt: skip
        template = parse_template(text, path="t")

        async def render(template: Any = template) -> None:
            template.render(context, now=now)

        print(f"template  {text:40} {await measure(render, ROUNDS):8.2f} us")
    condition = parse_condition("params.n > `5` && steps.a.body", path="c")

    async def hold() -> None:
        condition.evaluate(context, now=now)

    print(f"condition {condition.text:40} {await measure(hold, ROUNDS):8.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    profile = cProfile.Profile()
    if chosen.profile:
        profile.enable()
    asyncio.run(measure_runs())
    if chosen.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    asyncio.run(measure_expressions())


if __name__ == "__main__":
    main()
