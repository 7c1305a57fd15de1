"""Whoever is measured by ``benchmarks.queue``: we, and the peers as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg

from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.model import NO_LANE, Lane, NewWork, uuid7
from ordinaut.store import migrate, queue
from ordinaut.store.database import Database

PAYLOAD = '{"pipeline": [{"uses": "core.transform", "with": {"value": 1}}]}'
ENQUEUE = 1_000  # runs in one call
RATE = 50  # runs a second when latency is measured


class Memory:
    """The most memory that processes took together, in MB (resident set), while it watched."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0.0

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self.peak = max(self.peak, sum(map(self._of, self._processes)) / 1e6)

    def _of(self, process: psutil.Process) -> int:
        try:
            family = [process, *process.children(recursive=True)]
            return sum(one.memory_info().rss for one in family)
        except psutil.Error:
            return 0


class Ours:
    """Ordinaut on one database."""

    def __init__(self, server: EmbeddedPostgres, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self.url = make_database(server, "ours")
        migrate.upgrade(self.url)
        self.task_id = make_task(self.url)

    def work(self, at: datetime, *, priority: int = 5, lane: Lane = NO_LANE) -> NewWork:
        return NewWork(uuid7(), self.task_id, 1, None, at, priority, "run_now", lane=lane)

    async def fill(
        self, db: Database, count: int, make: Callable[[int, datetime], NewWork] | None = None
    ) -> None:
        """Empty the database and queue ``count`` runs, by default such without any limit."""
        make = make or (lambda _, at: self.work(at))
        async with db.connection() as tx:
            await tx.execute("TRUNCATE due_work, task_run, step_run, event, rated_start")
            now = datetime.now(UTC)
            for start in range(0, count, ENQUEUE):
                await queue.enqueue(tx, [make(start + n, now) for n in range(ENQUEUE)])
            await tx.execute("VACUUM ANALYZE due_work")
            await tx.execute("CHECKPOINT")

    @contextmanager
    def workers(self, processes: int, concurrency: int = 100) -> Iterator[Memory]:
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
            with Memory([process.pid for process in running]) as memory:
                yield memory
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(30)

    async def throughput(
        self,
        *,
        processes: int = 1,
        count: int,
        concurrency: int = 100,
        make: Callable[[int, datetime], NewWork] | None = None,
    ) -> tuple[float, float]:
        """Return runs a second from the first start to the last commit, and MB."""
        async with Database(self.url, size=2) as db:
            await self.fill(db, count, make)
            with self.workers(processes, concurrency) as memory:
                await drained(db, "due_work")
            [(done, seconds)] = await fetch(
                db,
                "SELECT (SELECT count(*) FROM task_run WHERE status = 'succeeded'),"
                " extract(epoch FROM (SELECT max(occurred_at) FROM event)"
                " - (SELECT min(started_at) FROM task_run))::float8",
            )
        assert done == count, f"{done} of {count} runs succeeded"
        return count / float(seconds), memory.peak

    async def pace_of_many(self, count: int, part: int) -> tuple[float, float]:
        """Return runs a second among the first and the last ``part`` of ``count`` runs."""
        await self.throughput(count=count)
        async with Database(self.url, size=1) as db:
            [(first, last)] = await fetch(
                db,
                "WITH ended AS (SELECT finished_at, row_number() OVER (ORDER BY finished_at) AS n"
                " FROM task_run)"
                " SELECT extract(epoch FROM max(finished_at) FILTER (WHERE n <= %(part)s)"
                " - min(finished_at))::float8, extract(epoch FROM max(finished_at)"
                " - min(finished_at) FILTER (WHERE n > %(count)s - %(part)s))::float8 FROM ended",
                {"part": part, "count": count},
            )
        return part / first, part / last

    async def sustained(self, *, rate: int, seconds: int) -> list[tuple[float, float]]:
        """Feed ``rate`` runs a second; return for each when it was due, and how late it began."""
        async with Database(self.url, size=2) as db:
            await self.fill(db, 0)
            with self.workers(1):
                async with db.connection() as tx:
                    await wait_for_worker(tx)
                    await self._feed(tx, rate=rate, seconds=seconds)
                await drained(db, "due_work")
            return await fetch(
                db,
                "SELECT extract(epoch FROM run_at - min(run_at) OVER ())::float8,"
                " extract(epoch FROM started_at - run_at)::float8 FROM task_run ORDER BY run_at",
            )

    async def _feed(self, tx: Any, *, rate: int, seconds: int) -> None:
        loop = asyncio.get_running_loop()
        begin, fed = loop.time(), 0
        while (passed := loop.time() - begin) < seconds:
            if (wanted := int(passed * rate)) > fed:
                now = datetime.now(UTC)
                more = [self.work(now) for _ in range(wanted - fed)]
                await queue.enqueue(tx, more, wake=True, now=now)
                fed = wanted
            await asyncio.sleep(0.01)

    async def enqueue(self, *, single: int, batches: int) -> tuple[float, float]:
        """Return runs queued a second: one in a transaction, and :data:`ENQUEUE` of them."""
        loop = asyncio.get_running_loop()
        async with Database(self.url, size=1) as db:
            await self.fill(db, 0)
            async with db.connection() as tx:
                begin = loop.time()
                for _ in range(single):
                    await queue.enqueue(tx, [self.work(datetime.now(UTC))])
                middle = loop.time()
                for _ in range(batches):
                    now = datetime.now(UTC)
                    await queue.enqueue(tx, [self.work(now) for _ in range(ENQUEUE)])
                return single / (middle - begin), batches * ENQUEUE / (loop.time() - middle)

    async def latency(self, count: int) -> list[float]:
        """Return how many seconds after it was due each run started."""
        async with Database(self.url, size=2) as db:
            await self.fill(db, 0)
            with self.workers(1):
                async with db.connection() as tx:
                    await wait_for_worker(tx)
                    for _ in range(count + RATE):  # the first second warms up
                        now = datetime.now(UTC)
                        await queue.enqueue(tx, [self.work(now)], wake=True, now=now)
                        await asyncio.sleep(1 / RATE)
                await drained(db, "due_work")
            rows = await fetch(
                db,
                "SELECT extract(epoch FROM started_at - run_at)::float8 FROM task_run ORDER BY id",
            )
        return [seconds for (seconds,) in rows[RATE:]]


class Peer:
    """Another queue, driven through ``benchmarks.peers``."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self._call("install")

    def _command(self, verb: str, number: int) -> list[str]:
        return [sys.executable, "-m", "benchmarks.peers", self.name, verb, self.url, str(number)]

    def _call(self, verb: str, number: int = 0) -> None:
        command = self._command(verb, number)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _start(self, verb: str, number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command(verb, number),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    async def throughput(self, *, processes: int, count: int, batch: int) -> tuple[float, float]:
        """Return jobs a second from the first start to the last end, and MB."""
        self._call("fill", count)
        if self.url.startswith("postgresql"):
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")
        running = [self._start("drain", batch) for _ in range(processes)]
        with Memory([process.pid for process in running]) as memory:
            reports = [json.loads(p.communicate()[0].splitlines()[-1]) for p in running]
        firsts = [r["first"] for r in reports if r["first"] is not None]
        return count / (max(r["last"] for r in reports) - min(firsts)), memory.peak

    def enqueue(self, *, single: int, batches: int) -> tuple[float, float]:
        """Return jobs queued a second: one in a call, and :data:`ENQUEUE` of them."""
        found = []
        for verb, number in (("enqueue", single), ("fill", batches * ENQUEUE)):
            out, _ = self._start(verb, number).communicate()
            found.append(float(json.loads(out.splitlines()[-1])["per_second"]))
        return found[0], found[1]

    def latency(self, count: int, *, batch: int) -> list[float]:
        listening = self._start("listen", batch)
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
    while await fetch(db, f"SELECT EXISTS (SELECT FROM {table})") == [(True,)]:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def fetch(db: Database, query: str, values: Any = None) -> list[tuple[Any, ...]]:
    async with db.connection() as tx:
        return await (await tx.execute(query, values)).fetchall()  # type: ignore[arg-type]


async def wait_for_worker(tx: Any) -> None:
    while True:
        query = "SELECT count(*) FROM worker WHERE state = 'running'"
        if (await (await tx.execute(query)).fetchone()) == (1,):
            await asyncio.sleep(1.0)
            return
        await asyncio.sleep(0.05)
