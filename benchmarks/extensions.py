"""The API's latency with ten broken extensions beside it without any, in one run.

    .venv/bin/python -m benchmarks.extensions [--seconds 5] [--rate 100] [--json FILE]

Two APIs on one database take turns: one alone, one that has found ten extensions that fail,
hang, block, compute without end or leak, while callers knock at their routes all the time.
Schedulers load no extension, so their lateness does not depend on them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import uvloop
from benchmarks.api import serve_ours, served

from ordinaut import telemetry
from ordinaut.config import Settings
from ordinaut.devserver.ports import free_port
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.store import agents, migrate
from ordinaut.store.database import Database

ROUNDS = 5
SETTLE = 20.0  # seconds until slow imports and runaways have met their limits

CODE = """
import asyncio, sys, time
from fastapi import APIRouter
from ordinaut.plugins.base import *
{first}
class Broken(Extension):
    def info(self):
        return ExtensionInfo("{id}", "{id}", "1.0.0")
    def requested_capabilities(self):
        return {{Capability.ROUTES, Capability.BACKGROUND_TASKS}}
    def setup(self, *, context, **kwargs):
        router = APIRouter()
        {setup}
        return router
    async def on_startup(self, app):
        {startup}
def get_extension():
    return Broken()
"""
SPIN = "while True: pass"
BROKEN = {
    "syntax": {"first": "def ("},
    "slow_import": {"first": "time.sleep(30)"},
    "exits": {"first": "sys.exit(1)"},
    "setup_raises": {"setup": "raise RuntimeError('no')"},
    "setup_spins": {"setup": SPIN},
    "startup_raises": {"startup": "raise RuntimeError('no')"},
    "startup_blocks": {"startup": "time.sleep(60)"},
    "task_spins": {"setup": "context['background'].run('spin', self.spin)", "more": SPIN},
    "leaks": {"startup": "self.l = [asyncio.create_task(asyncio.sleep(999)) for _ in range(5000)]"},
    "route_blocks": {"setup": "router.get('/x')(self.block)", "more": "time.sleep(5)"},
}


def write_extensions(root: Path) -> None:
    """Write the broken extensions."""
    for id, parts in BROKEN.items():
        folder = root / id
        folder.mkdir(parents=True)
        given = {"first": "", "setup": "pass", "startup": "pass", **parts}
        code = CODE.format(id=id, **given)
        if "more" in given:
            code = code.replace(
                "    async def on_startup",
                f"    async def spin(self):\n        {given['more']}\n"
                f"    async def block(self):\n        {given['more']}\n    async def on_startup",
            )
        (folder / "extension.py").write_text(code)
        manifest = {"id": id, "name": id, "version": "1", "eager": True}
        grants = {"grants": ["ROUTES", "BACKGROUND_TASKS"]}
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
    """Call the routes of the broken extensions for ever."""
    headers = {"Authorization": f"Bearer {key}"}
    base = f"http://127.0.0.1:{port}/ext"
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=1) as client:
        while True:
            paths = (f"/{id}/x" for id in BROKEN)
            await asyncio.gather(*map(client.get, paths), return_exceptions=True)
            await asyncio.sleep(0.5)


async def compare(ports: dict[str, int], key: str, options: Any) -> dict[str, list[float]]:
    """Measure both APIs in turns."""
    found: dict[str, list[float]] = {name: [] for name in ports}
    knocking = asyncio.create_task(knock(ports["broken"], key))
    await asyncio.sleep(SETTLE)
    for _ in range(ROUNDS):
        for name, port in ports.items():
            found[name] += await latencies(port, key, seconds=options.seconds, rate=options.rate)
    knocking.cancel()
    return found


def measure(folder: Path, url: str, redis: str, options: Any) -> dict[str, float]:
    """Serve both and return the percentiles in milliseconds."""
    migrate.upgrade(url)
    write_extensions(folder / "ext")
    ports = {"alone": free_port(), "broken": free_port()}
    common: dict[str, Any] = {"database_url": url, "redis_url": redis, "secret": "x" * 40}
    alone = Settings(**common, port=ports["alone"])
    broken = Settings(**common, port=ports["broken"], ext_paths=(folder / "ext",))
    key = uvloop.run(bootstrap(alone))
    with (
        served(serve, alone, port=ports["alone"]),
        served(serve, broken, port=ports["broken"]),
    ):
        found = uvloop.run(compare(ports, key, options))
    return {
        f"{name}_p{percent}_ms": statistics.quantiles(times, n=100)[percent - 1] * 1000
        for name, times in found.items()
        for percent in (50, 99)
    }


async def bootstrap(settings: Settings) -> str:
    """Make the agent that asks."""
    key = agents.new_key()
    async with Database(settings.database_url) as db, db.transaction() as tx:
        await agents.bootstrap(tx, name="bench", api_key=key, pepper=agents.pepper(settings))
    return key


def run(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each of five rounds")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
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
    for percent in (50, 99):
        alone, broken = found[f"alone_p{percent}_ms"], found[f"broken_p{percent}_ms"]
        print(
            f"GET /tasks p{percent}   alone {alone:7.2f} ms   beside ten broken extensions "
            f"{broken:7.2f} ms   ratio {broken / alone:5.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    sys.exit(run())
