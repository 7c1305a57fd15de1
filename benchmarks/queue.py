"""No-op runs a second and due→start latency, beside other queues in the same sitting.

    ./ordinaut bench queue [--peers pgqueuer,procrastinate] [--quick] [--json FILE]

Ours are `ordinaut worker` processes as they are delivered: fencing, history, a step record and
four events for each run. Each queue gets a database of its own on one embedded PostgreSQL with
fsync on. The queue is filled before the consumers start, and what counts is the time from the
start of the first run to the last commit, so neither filling nor starting processes is in it.
Contenders take turns, and the best of their rounds is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import uvloop
from benchmarks import pgbench

from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.model import NewWork, uuid7
from ordinaut.store import migrate, queue
from ordinaut.store.database import Database

PAYLOAD = '{"pipeline": [{"uses": "core.transform", "with": {"value": 1}}]}'
BATCHES = (100, 500, 1000)  # of pgqueuer
ENQUEUE = 1_000
RATE = 50  # runs a second when latency is measured
PEER_MODULES = {"pgqueuer": ("pgqueuer", "asyncpg"), "procrastinate": ("procrastinate",)}

Row = dict[str, Any]
Contender = tuple[str, dict[str, Any], Callable[[], Awaitable[float]]]


class Ours:
    """Ordinaut on one database."""

    def __init__(self, server: EmbeddedPostgres, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self.url = make_database(server, "ours")
        migrate.upgrade(self.url)
        self.task_id = make_task(self.url)

    def work(self, at: datetime) -> NewWork:
        return NewWork(uuid7(), self.task_id, 1, None, at, 5, "run_now")

    async def fill(self, db: Database, count: int) -> None:
        async with db.connection() as tx:
            await tx.execute("TRUNCATE due_work, task_run, step_run, event")
            now = datetime.now(UTC)
            for _ in range(count // ENQUEUE):
                await queue.enqueue(tx, [self.work(now) for _ in range(ENQUEUE)])
            await tx.execute("VACUUM ANALYZE due_work")
            await tx.execute("CHECKPOINT")

    @contextmanager
    def workers(self, processes: int, concurrency: int = 100) -> Iterator[None]:
        environment = {
            **os.environ,
            "DATABASE_URL": self.url,
            "REDIS_URL": "redis://127.0.0.1:1",
            "ORDINAUT_SECRET": "0" * 32,
            "ORDINAUT_WORKER_CONCURRENCY": str(concurrency),
        }
        with (self._folder / "worker.log").open("ab") as log:
            running = [
                subprocess.Popen(
                    [sys.executable, "-m", "ordinaut", "worker"], env=environment, stderr=log
                )
                for _ in range(processes)
            ]
        try:
            yield
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(30)

    async def throughput(self, *, processes: int, count: int, concurrency: int = 100) -> float:
        async with Database(self.url, size=2) as db:
            await self.fill(db, count)
            with self.workers(processes, concurrency):
                await drained(db, "due_work")
                async with db.connection() as tx:
                    [(done, seconds)] = await (
                        await tx.execute(
                            "SELECT (SELECT count(*) FROM task_run WHERE status = 'succeeded'),"
                            " extract(epoch FROM (SELECT max(occurred_at) FROM event)"
                            " - (SELECT min(started_at) FROM task_run))::float8"
                        )
                    ).fetchall()
        assert done == count, f"{done} of {count} runs succeeded"
        return count / float(seconds)

    async def latency(self, count: int) -> list[float]:
        """Return how many seconds after it was due each run started."""
        async with Database(self.url, size=2) as db:
            await self.fill(db, 0)
            with self.workers(1):
                async with db.connection() as tx:
                    await wait_for_worker(tx)
                    for _ in range(count + RATE):  # the first second warms up
                        now = datetime.now(UTC)
                        async with tx.transaction():
                            await queue.enqueue(tx, [self.work(now)], now=now)
                            await queue.hint(tx)
                        await asyncio.sleep(1 / RATE)
                    await drained(db, "due_work")
                    rows = await (
                        await tx.execute(
                            "SELECT extract(epoch FROM started_at - run_at)::float8"
                            " FROM task_run ORDER BY id"
                        )
                    ).fetchall()
        return [seconds for (seconds,) in rows[RATE:]]


class Peer:
    """Another queue, driven through ``benchmarks.peers``."""

    def __init__(self, server: EmbeddedPostgres, name: str) -> None:
        self.name = name
        self.url = make_database(server, name)
        self._call("install")

    def _command(self, verb: str, number: int) -> list[str]:
        return [sys.executable, "-m", "benchmarks.peers", self.name, verb, self.url, str(number)]

    def _call(self, verb: str, number: int = 0) -> None:
        subprocess.run(self._command(verb, number), check=True, stderr=subprocess.DEVNULL)

    def _start(self, verb: str, number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command(verb, number),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    async def throughput(self, *, processes: int, count: int, batch: int) -> float:
        self._call("fill", count)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        running = [self._start("drain", batch) for _ in range(processes)]
        reports = [json.loads(p.communicate()[0].splitlines()[-1]) for p in running]
        firsts = [r["first"] for r in reports if r["first"] is not None]
        return count / (max(r["last"] for r in reports) - min(firsts))

    def latency(self, count: int) -> list[float]:
        listening = self._start("listen", RATE)
        assert listening.stdout is not None
        listening.stdout.readline()
        self._call("produce", count + RATE)
        out, _ = listening.communicate(b"", timeout=60)
        late: list[float] = json.loads(out.splitlines()[-1])["late"]
        return late[RATE:]


def make_database(server: EmbeddedPostgres, name: str) -> str:
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return server.url_of(name)


def make_task(url: str) -> UUID:
    task_id, agent_id = uuid7(), uuid7()
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO agent (id, name) VALUES (%s, 'bench')", (agent_id,))
        connection.execute(
            "INSERT INTO task (id, title, schedule_kind, schedule_expr, timezone, anchor,"
            " created_by) VALUES (%s, 'no-op', 'event', 'bench', 'UTC', now(), %s)",
            (task_id, agent_id),
        )
        connection.execute(
            "INSERT INTO task_definition (task_id, version, payload) VALUES (%s, 1, %s)",
            (task_id, PAYLOAD),
        )
    return task_id


async def drained(db: Database, table: str) -> None:
    async with db.connection() as tx:
        while True:
            query = f"SELECT EXISTS (SELECT FROM {table})"
            row = await (await tx.execute(query)).fetchone()  # type: ignore[arg-type]
            if row == (False,):
                return
            await asyncio.sleep(0.05)


async def wait_for_worker(tx: Any) -> None:
    while True:
        query = "SELECT count(*) FROM worker WHERE state = 'running'"
        if (await (await tx.execute(query)).fetchone()) == (1,):
            await asyncio.sleep(1.0)
            return
        await asyncio.sleep(0.05)


class Bench:
    """What is measured, and the table it is shown in."""

    def __init__(self, server: EmbeddedPostgres, folder: Path, options: argparse.Namespace) -> None:
        self._server = server
        self._folder = folder
        self._quick: bool = options.quick
        self._rounds = 1 if options.quick else 3
        self._peers: list[str] = options.peers
        self._count = 60_000 if options.quick else 200_000
        self.rows: list[Row] = []

    async def run(self) -> None:
        ours = Ours(self._server, self._folder)
        peers = [Peer(self._server, name) for name in self._peers]
        for processes in (1, 2):
            contenders = [self._ours(ours, processes=processes)]
            for peer in peers:
                contenders += self._peer(peer, processes=processes)
            await self._compare(contenders)
        if not self._quick:
            await self._compare([self._ours(ours, concurrency=n) for n in (1, 20)])
        await self._pgbench(ours)
        count = RATE * (5 if self._quick else 20)
        self._show_latency("ordinaut", await ours.latency(count))
        for peer in peers:
            if peer.name == "pgqueuer":
                self._show_latency("pgqueuer", peer.latency(count))

    async def _compare(self, contenders: list[Contender]) -> None:
        """Let contenders run by turns, so that all meet the same machine; show their best."""
        best = [0.0] * len(contenders)
        for _ in range(self._rounds):
            for place, (_, _, once) in enumerate(contenders):
                best[place] = max(best[place], await once())
        for (name, how, _), found in zip(contenders, best, strict=True):
            self._show(name, per_second=found, **how)

    def _ours(self, ours: Ours, *, processes: int = 1, concurrency: int = 100) -> Contender:
        how = {"processes": processes, "concurrency": concurrency}
        return "ordinaut", how, lambda: ours.throughput(count=self._count, **how)

    def _peer(self, peer: Peer, *, processes: int) -> list[Contender]:
        if peer.name == "procrastinate":
            hows = [{"processes": processes, "batch": 0}]
            count = self._count // 50
        else:
            hows = [{"processes": processes, "batch": batch} for batch in BATCHES]
            count = self._count // 2
        return [(peer.name, how, partial(peer.throughput, count=count, **how)) for how in hows]

    async def _pgbench(self, ours: Ours) -> None:
        if pgbench.find() is None:
            print("pgbench is not in the wheel: left out")
            return
        async with Database(ours.url, size=1) as db:
            for batch in pgbench.BATCHES:
                found: list[tuple[float, int]] = []
                for clients in pgbench.CLIENTS:
                    await ours.fill(db, self._count)
                    limits = {"clients": clients, "batch": batch, "count": self._count}
                    found.append((pgbench.run(ours.url, folder=self._folder, **limits), clients))
                best, clients = max(found)
                name = "pgbench, our statements"
                self._show(name, clients=clients, batch=batch, per_second=best)

    def _show(self, name: str, *, per_second: float, **how: Any) -> None:
        self.rows.append({"name": name, **how, "per_second": round(per_second)})
        said = ", ".join(f"{key} {value}" for key, value in how.items())
        print(f"{name:24} {said:34} {per_second:10,.0f} runs/s", flush=True)

    def _show_latency(self, name: str, seconds: list[float]) -> None:
        cuts = statistics.quantiles(seconds, n=100)
        found = {"p50_ms": round(cuts[49] * 1e3, 2), "p99_ms": round(cuts[98] * 1e3, 2)}
        self.rows.append({"name": name, "rate": RATE, **found})
        said = f"due to start at {RATE}/s"
        print(f"{name:24} {said:34} p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms", flush=True)


def peers_of(text: str) -> list[str]:
    """Return the peers that are wanted and installed."""
    wanted = [name for name in text.split(",") if name]
    for name in wanted:
        if name not in PEER_MODULES:
            raise argparse.ArgumentTypeError(f"{name}: known are {', '.join(PEER_MODULES)}")
    there = [
        name for name in wanted if all(importlib.util.find_spec(m) for m in PEER_MODULES[name])
    ]
    for name in sorted(set(wanted) - set(there)):
        print(f"{name} is left out: pip install -e '.[bench]'", file=sys.stderr)
    return there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=peers_of, default=peers_of(",".join(PEER_MODULES)))
    parser.add_argument("--quick", action="store_true", help="fewer runs and one round")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "data") as server:
        bench = Bench(server, Path(folder), options)
        uvloop.run(bench.run())
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": bench.rows}, indent=2))


if __name__ == "__main__":
    main()
