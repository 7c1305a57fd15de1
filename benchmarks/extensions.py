"""API latency and scheduler lateness beside ten broken extensions and without them, in one run.

    .venv/bin/python -m benchmarks.extensions [--rounds 10] [--seconds 4] [--rate 30] [--json FILE]

Two APIs on one database take turns, each stopped (SIGSTOP) while the other is measured: one
alone, one that has found ten extensions that fail, hang, block, compute without end or leak.
Callers knock at the routes of these in both turns; the API without them answers 404. One
scheduler works all the time, and what it enqueues counts for the turn in which it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import httpx2
import uvloop
from benchmarks.api import await_port, serve_ours
from benchmarks.tick import Row, fill

from ordinaut import telemetry
from ordinaut.config import Settings
from ordinaut.devserver.ports import free_port
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.model import uuid7
from ordinaut.scheduler import daemon
from ordinaut.store import agents, migrate
from ordinaut.store.database import Database

Window: TypeAlias = tuple[datetime, datetime]
Turn: TypeAlias = tuple[list[float], Window, float]  # latencies, when, share of a processor

SETTLE = 20.0  # seconds until slow imports and runaways have met their limits
KNOCKS = 10  # a second, at the routes of the broken extensions
DUE = 50  # occurrences a second
MARGIN = 2.0  # seconds at the beginning of a turn that do not count

CODE = """
import asyncio, time
from fastapi import APIRouter
from ordinaut.plugins.base import *
{first}
class Broken(Extension):
    def info(self):
        return ExtensionInfo("{id}", "{id}", "1.0.0")
    def requested_capabilities(self):
        return {{Capability.ROUTES, Capability.BACKGROUND_TASKS, Capability.EVENTS_SUB}}
    def setup(self, *, context, **kwargs):
        router = APIRouter()
        router.get("/x")(self.route)
        {setup}
        return router
    async def on_startup(self, app):
        {startup}
    async def route(self):
        {route}
    async def task(self):
        {task}
    async def handle(self, message):
        raise RuntimeError("no")
def get_extension():
    return Broken()
"""
RAISE = "raise RuntimeError('no')"
LEAK = """while True:
            self.leaked = getattr(self, "leaked", [])
            self.leaked += [asyncio.create_task(asyncio.sleep(9999)) for _ in range(10)]
            await asyncio.sleep(0.1)"""
BROKEN: dict[str, dict[str, str]] = {
    "syntax": {"first": "def ("},
    "slow_import": {"first": "time.sleep(30)"},
    "setup_raises": {"setup": RAISE},
    "startup_raises": {"startup": RAISE},
    "route_raises": {"route": RAISE},
    "handler_raises": {"setup": "context['events'].subscribe('*', self.handle)"},
    "task_raises": {"setup": "context['background'].run('task', self.task)", "task": RAISE},
    "task_spins": {
        "setup": "context['background'].run('task', self.task)",
        "task": "while True: pass",
    },
    "leaks": {"setup": "context['background'].run('task', self.task)", "task": LEAK},
    "route_blocks": {"route": "time.sleep(5)"},
}


class Api(NamedTuple):
    """Where a process serves."""

    port: int
    pid: int


def write_extensions(root: Path) -> None:
    """Write the broken extensions."""
    nothing = dict.fromkeys(("first", "setup", "startup", "route", "task"), "pass")
    for id, parts in BROKEN.items():
        folder = root / id
        folder.mkdir(parents=True)
        (folder / "extension.py").write_text(CODE.format(id=id, **{**nothing, **parts}))
        manifest = {"id": id, "name": id, "version": "1", "eager": True}
        grants = {"grants": ["ROUTES", "BACKGROUND_TASKS", "EVENTS_SUB"]}
        (folder / "extension.json").write_text(json.dumps(manifest | grants))


def serve(settings: Settings) -> None:
    """Serve the API with the logs that it has in production."""
    telemetry.configure(level="warning", as_json=True, process="api")
    serve_ours(settings)


async def latencies(port: int, key: str, *, seconds: float, rate: float) -> list[float]:
    """Ask at a constant rate, whatever the answers take, and return how long each took."""
    headers = {"Authorization": f"Bearer {key}"}
    base = f"http://127.0.0.1:{port}"
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=30) as client:

        async def ask() -> float:
            began = time.perf_counter()
            (await client.get("/tasks?limit=1")).raise_for_status()
            return time.perf_counter() - began

        await asyncio.gather(*(ask() for _ in range(8)))  # warm up
        began, asked = time.perf_counter(), []
        for n in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, began + n / rate - time.perf_counter()))
            asked.append(asyncio.create_task(ask()))
        return list(await asyncio.gather(*asked))


async def knock(port: int, key: str) -> None:
    """Call the routes of the broken extensions for ever, whatever the answers take."""
    headers = {"Authorization": f"Bearer {key}"}
    base = f"http://127.0.0.1:{port}/ext"
    async with (
        httpx2.AsyncClient(base_url=base, headers=headers, timeout=1) as client,
        asyncio.TaskGroup() as knocks,
    ):

        async def one(id: str) -> None:
            with suppress(httpx2.HTTPError):
                await client.get(f"/{id}/x")

        for id in itertools.cycle(BROKEN):
            knocks.create_task(one(id))
            await asyncio.sleep(1 / KNOCKS)


async def turn(api: Api, key: str, options: Any) -> Turn:
    """Measure one API, and say when that was."""
    knocking = asyncio.create_task(knock(api.port, key))
    await asyncio.sleep(MARGIN)
    began, used = datetime.now(UTC), cpu_seconds(api.pid)
    found = await latencies(api.port, key, seconds=options.seconds, rate=options.rate)
    ended = datetime.now(UTC)
    share = (cpu_seconds(api.pid) - used) / (ended - began).total_seconds()
    knocking.cancel()
    await asyncio.wait([knocking])
    return found, (began, ended), share


def cpu_seconds(pid: int) -> float:
    """Return the time a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def compare(apis: dict[str, Api], key: str, options: Any) -> list[dict[str, Turn]]:
    """Measure both APIs in turns, each first as often as the other."""
    await asyncio.sleep(SETTLE)
    rounds: list[dict[str, Turn]] = []
    for number in range(options.rounds):
        found: dict[str, Turn] = {}
        for name in sorted(apis, reverse=number % 2 == 1):
            for other, api in apis.items():
                os.kill(api.pid, signal.SIGCONT if other == name else signal.SIGSTOP)
            found[name] = await turn(apis[name], key, options)
        rounds.append(found)
    return rounds


async def lateness(url: str, window: Window) -> list[float]:
    """Return how late each occurrence of a window was enqueued, in seconds."""
    async with Database(url) as db, db.connection() as connection:
        found = await connection.execute(
            "SELECT extract(epoch FROM created_at - scheduled_for)::float FROM due_work"
            " WHERE scheduled_for >= %s AND scheduled_for < %s",
            window,
        )
        return [late for (late,) in await found.fetchall()]


@contextmanager
def running(target: Any, settings: Settings) -> Iterator[int]:
    """Run a server in a process of its own until the block ends; yields its pid."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=(settings,))
    process.start()
    assert process.pid is not None
    try:
        yield process.pid
    finally:
        for number in (signal.SIGTERM, signal.SIGCONT):
            os.kill(process.pid, number)
        process.join(15)
        process.kill()


def schedule(settings: Settings) -> None:
    """Serve a scheduler."""
    telemetry.configure(level="warning", as_json=True, process="scheduler")
    uvloop.run(daemon.serve(settings))


def due(seconds: float) -> Iterator[Row]:
    """Yield schedules of which some are due each second, once."""
    start = datetime.now(UTC) + timedelta(seconds=5)
    for number in range(int(seconds * DUE)):
        at = start + timedelta(milliseconds=number * 1000 // DUE)
        yield uuid7(), "interval", "PT24H", at - timedelta(hours=24), at


def measure(folder: Path, url: str, redis: str, options: Any) -> dict[str, Any]:
    """Serve both and return latency and lateness of each round, in milliseconds."""
    migrate.upgrade(url)
    write_extensions(folder / "ext")
    common: dict[str, Any] = {"database_url": url, "redis_url": redis, "secret": "x" * 40}
    alone = Settings(**common, port=free_port())
    broken = Settings(**common, port=free_port(), ext_paths=(folder / "ext",))
    key = uvloop.run(bootstrap(alone))
    # Three times what it should take: on a busy machine turns last longer.
    seconds = 3 * (SETTLE + options.rounds * 2 * (MARGIN + options.seconds))
    with (
        running(schedule, alone),
        running(serve, alone) as alone_pid,
        running(serve, broken) as broken_pid,
    ):
        apis = {"alone": Api(alone.port, alone_pid), "broken": Api(broken.port, broken_pid)}
        for api in apis.values():
            await_port(api.port, seconds=120)
        uvloop.run(prepare(url, seconds))
        rounds = uvloop.run(compare(apis, key, options))
    return {name: uvloop.run(judged(url, name, rounds)) for name in apis}


async def judged(url: str, name: str, rounds: list[dict[str, Turn]]) -> dict[str, Any]:
    """Return the figures of one side: all rounds together, and p99 of each."""
    turns = [found[name] for found in rounds]
    late = [await lateness(url, window) for _, window, _ in turns]
    sides = {"latency": [times for times, *_ in turns], "lateness": late}
    figures: dict[str, Any] = {
        what: {
            "p50": percentile(itertools.chain(*each), 50),
            "p99": percentile(itertools.chain(*each), 99),
            "p99_of_rounds": [percentile(times, 99) for times in each],
            "samples": sum(map(len, each)),
        }
        for what, each in sides.items()
    }
    return {**figures, "cpu": statistics.mean(share for *_, share in turns)}


def percentile(seconds: Iterable[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    return statistics.quantiles(seconds, n=100)[percent - 1] * 1000


async def prepare(url: str, seconds: float) -> None:
    """Store the schedules."""
    async with Database(url) as db:
        await fill(db, due(seconds))


async def bootstrap(settings: Settings) -> str:
    """Make the agent that asks."""
    key = agents.new_key()
    async with Database(settings.database_url) as db, db.transaction() as tx:
        await agents.bootstrap(tx, name="bench", api_key=key, pepper=agents.pepper(settings))
    return key


def run(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each turn of a round")
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            EmbeddedPostgres(folder / "postgres") as postgres,
            EmbeddedValkey(folder / "valkey") as valkey,
        ):
            found = measure(folder, postgres.url, valkey.url, options)
    for what, title in (("latency", "GET /tasks"), ("lateness", "scheduler")):
        alone, broken = found["alone"][what], found["broken"][what]
        for percent in ("p50", "p99"):
            print(
                f"{title:10} {percent}   alone {alone[percent]:7.2f} ms   beside ten broken "
                f"{broken[percent]:7.2f} ms   ratio {broken[percent] / alone[percent]:5.2f}"
            )
        ratios = [
            theirs / ours
            for ours, theirs in zip(alone["p99_of_rounds"], broken["p99_of_rounds"], strict=True)
        ]
        print(
            f"{title:10} p99 of each round, ratio: median {statistics.median(ratios):.2f}, "
            f"{min(ratios):.2f} to {max(ratios):.2f}"
        )
    ours, theirs = found["alone"]["cpu"], found["broken"]["cpu"]
    print(f"API        processor   alone {ours:.1%}   beside ten broken {theirs:.1%}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    sys.exit(run())
