"""``POST /tasks`` beside a bare FastAPI + psycopg insert, and batches, in one run.

    .venv/bin/python -m benchmarks.api [--seconds 5] [--connections 16] [--json FILE]

The bare application stores one row of the same request in one table and answers its id: no
authentication, no schedule, no event, no audit. Both are served by uvicorn in a process of
their own and take turns, so that the machine's moods meet both. fsync is on.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import uvicorn
import uvloop
from fastapi import FastAPI
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from ordinaut.api import main
from ordinaut.config import Settings
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.store import agents, migrate
from ordinaut.store.database import Database

ROUNDS = 3
BATCH = 1000
POOL = 10
VARIETY = 600  # different tasks, so that what is remembered of one does not serve all
IN_FLIGHT = 2  # batches at a time: the server checks one while PostgreSQL stores the other
TASK: dict[str, Any] = {
    "title": "nightly report",
    "schedule_kind": "cron",
    "schedule_expr": "30 2 * * *",
    "timezone": "Europe/Chisinau",
    "priority": 5,
    "payload": {
        "params": {"url": "https://example.org/report"},
        "pipeline": [
            {"id": "get", "uses": "http.request", "with": {"url": "${params.url}"}},
            {"uses": "core.log", "with": {"message": "got ${steps.get.status}"}},
        ],
    },
}
BARE_TABLE = """
CREATE TABLE bare_task (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    title          text NOT NULL,
    schedule_kind  text NOT NULL,
    schedule_expr  text NOT NULL,
    timezone       text NOT NULL,
    priority       smallint NOT NULL,
    payload        jsonb NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
)
"""
BARE_INSERT = """
INSERT INTO bare_task (title, schedule_kind, schedule_expr, timezone, priority, payload)
VALUES (%s, %s, %s, %s, %s, %s) RETURNING id
"""


class BareTask(BaseModel):
    """What the bare application takes."""

    title: str
    schedule_kind: str
    schedule_expr: str
    timezone: str
    priority: int = 5
    payload: dict[str, Any]


def bare_app(url: str) -> FastAPI:
    """The least that FastAPI and psycopg can do for one insert."""
    pool = AsyncConnectionPool(url, max_size=POOL, open=False, kwargs={"autocommit": True})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/tasks", status_code=201)
    async def create(task: BareTask) -> dict[str, str]:
        values = (
            task.title,
            task.schedule_kind,
            task.schedule_expr,
            task.timezone,
            task.priority,
            Jsonb(task.payload),
        )
        async with pool.connection() as connection:
            row = await (await connection.execute(BARE_INSERT, values)).fetchone()
        assert row is not None
        return {"id": str(row[0])}

    return app


def serve_bare(url: str, port: int) -> None:
    """Serve the bare application in this process."""
    config = uvicorn.Config(
        bare_app(url), port=port, loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip
    uvicorn.Server(config).run()


def serve_ours(settings: Settings) -> None:
    """Serve Ordinaut's API in this process, as ``ordinaut api`` does."""
    uvloop.run(main.serve(settings))


@contextmanager
def served(target: Any, *args: Any, port: int) -> Iterator[None]:
    """Run a server in a process of its own until the block ends."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    try:
        await_port(port)
        yield
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join(30)


class Hammer(asyncio.Protocol):
    """One connection that sends the next request as soon as the last was answered."""

    def __init__(self, requests: Iterator[bytes], counter: list[int], over: asyncio.Event) -> None:
        self._requests = requests
        self._counter = counter
        self._over = over
        self._transport: asyncio.Transport | None = None
        self._left = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._left += data
        head, end, body = self._left.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 201"):
            sys.exit(f"not stored: {self._left!r}")
        self._left = body[length:]
        self._counter[0] += 1
        if not self._over.is_set() and self._transport is not None:
            self._transport.write(next(self._requests))


async def hammer(port: int, key: str, *, seconds: float, connections: int) -> float:
    """Return the answers a second that the server at ``port`` gives."""
    requests = itertools.cycle([_request(key, task) for task in tasks(VARIETY)])
    counter, over = [0], asyncio.Event()
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Hammer(requests, counter, over), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(0.5)  # warm up
    before, began = counter[0], time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (counter[0] - before) / (time.perf_counter() - began)
    over.set()
    await asyncio.sleep(0.2)
    for transport, _ in opened:
        transport.close()
    return rate


async def batches(port: int, key: str, *, seconds: float) -> float:
    """Return the tasks a second that ``POST /tasks/batch`` stores."""
    body = json.dumps({"tasks": tasks(BATCH)}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    done, began = 0, time.perf_counter()

    async def send(client: httpx2.AsyncClient) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            answer = await client.post("/tasks/batch", content=body, headers=headers)
            answer.raise_for_status()
            done += BATCH

    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        await asyncio.gather(*(send(client) for _ in range(IN_FLIGHT)))
    return done / (time.perf_counter() - began)


def tasks(count: int) -> list[dict[str, Any]]:
    """Return tasks that differ in title, schedule and parameters, as those of a fleet do."""
    return [
        TASK
        | {"title": f"nightly report {n}", "schedule_expr": f"{n % 60} {n // 60 % 24} * * *"}
        | {"payload": TASK["payload"] | {"params": {"url": f"https://example.org/{n}"}}}
        for n in range(count)
    ]


def _request(key: str, task: dict[str, Any]) -> bytes:
    body = json.dumps(task).encode()
    head = (
        f"POST /tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def bootstrap(settings: Settings) -> str:
    """Make the agent that the measurement acts as."""
    key = agents.new_key()
    async with Database(settings.database_url) as db, db.transaction() as tx:
        await agents.bootstrap(tx, name="bench", api_key=key, pepper=agents.pepper(settings))
        await tx.execute(BARE_TABLE)
    return key


def measure(url: str, *, seconds: float, connections: int) -> dict[str, float]:
    """Measure both in turns and return the medians."""
    migrate.upgrade(url)
    ours, bare = _free_port(), _free_port()
    settings = Settings(
        database_url=url, redis_url="redis://127.0.0.1:1/0", secret="x" * 40, port=ours,
        database_pool_size=POOL, ext_disabled=("events_demo",),
    )  # fmt: skip
    key = uvloop.run(bootstrap(settings))
    rates: dict[str, list[float]] = {"bare": [], "ours": [], "batch": []}
    with served(serve_bare, url, bare, port=bare), served(serve_ours, settings, port=ours):
        for _ in range(ROUNDS):
            for name, port in (("bare", bare), ("ours", ours)):
                rates[name].append(
                    uvloop.run(hammer(port, key, seconds=seconds, connections=connections))
                )
            rates["batch"].append(uvloop.run(batches(ours, key, seconds=seconds)))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "bare_per_second": medians["bare"],
        "ours_per_second": medians["ours"],
        "ratio": medians["ours"] / medians["bare"],
        "batch_tasks_per_second": medians["batch"],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing answers at port {port}")


def run(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "data") as server:
            found = measure(server.url, seconds=options.seconds, connections=options.connections)
    print(f"bare FastAPI + psycopg insert   {found['bare_per_second']:>9,.0f} requests/s")
    print(f"POST /tasks                     {found['ours_per_second']:>9,.0f} requests/s")
    print(f"ratio                           {found['ratio']:>9.0%}")
    print(f"POST /tasks/batch of {BATCH:,}      {found['batch_tasks_per_second']:>9,.0f} tasks/s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    run()
