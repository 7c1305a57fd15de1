"""A thousand runs a second go in while workers, connections and PostgreSQL are taken away.

Every run must end once, and after each fault the system must catch up with what goes in.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.store import migrate, queue
from ordinaut.store.database import Database
from queueing import make_task, rows, work
from working import Process, process, until

pytestmark = pytest.mark.chaos

RATE = 1_000  # runs a second
EVERY = 0.1  # seconds between two batches
LATE = timedelta(seconds=1)  # after which a run that nobody took shows that we are behind
LEASE = 2.0  # seconds
CUTS = 15  # connections
WITHIN = 60.0  # seconds for a busy machine; an idle one needs one to five
PIPELINE = {"pipeline": [{"uses": "core.transform", "with": {"value": 1}}]}


class Feed:
    """Enqueues ``rate`` runs a second, whatever happens to the server; each of them once."""

    def __init__(self, db: Database, task_id: UUID) -> None:
        self.rate = RATE
        self.fed: set[UUID] = set()
        self._db = db
        self._task_id = task_id

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._flow(stop))
            try:
                yield
            finally:
                stop.set()  # the batch that is on its way arrives

    async def _flow(self, stop: asyncio.Event) -> None:
        due = asyncio.get_running_loop().time()
        while not stop.is_set():
            await self._put(int(self.rate * EVERY))
            due = max(due + EVERY, asyncio.get_running_loop().time() - 1)
            await asyncio.sleep(due - asyncio.get_running_loop().time())

    async def _put(self, count: int) -> None:
        now = datetime.now(UTC)
        items = [work(self._task_id, run_at=now) for _ in range(count)]
        self.fed.update(item.id for item in items)
        doubtful = False
        while True:
            try:
                if doubtful and await self._has(items[0].id):
                    return
                async with self._db.transaction() as tx:
                    await queue.enqueue(tx, items, now=now)
                    await queue.hint(tx)
                return
            except psycopg.Error:
                doubtful = True
                await asyncio.sleep(EVERY)

    async def _has(self, run_id: UUID) -> bool:
        """Tell whether a batch is queued although its commit was not answered."""
        query = "SELECT count(*) FROM fact WHERE topic = 'run.queued' AND run_id = %s"
        return await rows(self._db, query, run_id) != [(0,)]


class Site:
    """The processes, and what happens to them."""

    def __init__(self, server: EmbeddedPostgres, folder: Path, redis_url: str) -> None:
        self._url = server.url
        self._server = server
        self._folder = folder
        self._stack = ExitStack()
        self._options: dict[str, Any] = {
            "lease_seconds": LEASE, "worker_concurrency": 100, "redis_url": redis_url,
        }  # fmt: skip
        self.workers: list[Process] = []

    async def __aenter__(self) -> Site:
        self._start("scheduler")
        self.start_a_worker()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, command: str) -> Process:
        log = self._folder / f"{command}.log"
        return self._stack.enter_context(process(self._url, log, command=command, **self._options))

    def start_a_worker(self) -> None:
        self.workers.append(self._start("worker"))

    async def kill_a_worker(self) -> None:
        victim = self.workers.pop(0)
        victim.send(signal.SIGKILL)
        victim.wait()
        self.start_a_worker()

    async def cut_connections(self) -> None:
        """Cut those that commit first: theirs are the answers that get lost."""
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as tx:
            for _ in range(CUTS):
                await tx.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name LIKE 'ordinaut%'"
                    " AND state = 'active'"
                    " ORDER BY wait_event IN ('WALSync', 'WALWrite') DESC NULLS LAST, random()"
                    " LIMIT 1"
                )
                await asyncio.sleep(EVERY)

    async def restart(self) -> None:
        await asyncio.to_thread(self._server.stop)
        await asyncio.to_thread(self._server.start)

    async def crash(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)


async def caught_up(db: Database, *, within: float) -> datetime:
    """Wait until nothing is late but what a dead worker held; return when that was."""
    at = datetime.now(UTC)

    async def level() -> bool:
        nonlocal at
        at = datetime.now(UTC)
        query = (
            "SELECT count(*) FROM due_work WHERE state = 'ready' AND crashes = 0 AND run_at < %s"
        )
        try:
            return await rows(db, query, at - LATE) == [(0,)]
        except psycopg.Error:
            return False

    await until(level, what="the workers have caught up with what goes in", within=within)
    return at


async def lag(db: Database, began: datetime, level_at: datetime) -> float:
    """Return for how many seconds after ``began`` runs ended late."""
    [(last,)] = await rows(
        db,
        "SELECT max(finished_at) FROM task_run"
        " WHERE attempt = 1 AND finished_at - run_at > %s AND finished_at BETWEEN %s AND %s",
        LATE, began, level_at + LATE,
    )  # fmt: skip
    return 0.0 if last is None else float((last - began).total_seconds())


async def find_rate(db: Database, feed: Feed) -> None:
    """Feed much less on a machine that is too busy for the rate without any fault."""
    while True:
        await asyncio.sleep(3)  # not to synchronise: the length of the trial
        with suppress(AssertionError):
            await caught_up(db, within=4)
            return
        feed.rate //= 3
        assert feed.rate > 30, "the worker does nothing"


async def test_a_thousand_runs_a_second_survive_kills_cuts_and_restarts(
    redis_url: str, tmp_path: Path, record_property: Any
) -> None:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres(tmp_path / "data"))
        migrate.upgrade(server.url)
        db = await stack.enter_async_context(Database(server.url))
        feed = Feed(db, await make_task(db, payload=PIPELINE))
        site = await stack.enter_async_context(Site(server, tmp_path, redis_url))
        await until(lambda: running(db, 1), what="a worker runs", within=60)
        spans: list[tuple[datetime, datetime]] = []
        async with feed.flowing():
            await find_rate(db, feed)  # which one worker bears while the other is away
            site.start_a_worker()
            await until(lambda: running(db, 2), what="another worker runs", within=60)
            await caught_up(db, within=WITHIN)
            for fault in (site.kill_a_worker, site.cut_connections, site.restart, site.crash):
                began = datetime.now(UTC)
                await fault()
                over = datetime.now(UTC)
                await asyncio.sleep(2 * LATE.total_seconds())  # its effects take time to show
                spans.append((began, await caught_up(db, within=WITHIN)))
                behind_for = await lag(db, *spans[-1])
                said = f"{(over - began).total_seconds():.1f} s, behind for {behind_for:.1f} s"
                record_property(fault.__name__, said)
                print(f"{fault.__name__}: took {said}, at {feed.rate} runs/s")
        await until(lambda: empty(db), what="everything has ended", within=60)
        await assert_each_ended_once(db, feed.fed)
        for began, level_at in spans:
            behind = await rows(
                db,
                "SELECT count(*) FROM task_run WHERE attempt = 1 AND run_at BETWEEN %s AND %s"
                " AND finished_at > %s",
                began, level_at - LATE, level_at + LATE,
            )  # fmt: skip
            assert behind == [(0,)], f"not caught up {level_at - began} after the fault"


async def running(db: Database, count: int) -> bool:
    query = "SELECT count(*) FROM worker WHERE kind = 'worker' AND state = 'running'"
    return await rows(db, query) == [(count,)]


async def empty(db: Database) -> bool:
    return await rows(db, "SELECT count(*) FROM due_work") == [(0,)]


async def assert_each_ended_once(db: Database, fed: set[UUID]) -> None:
    """Compare the ledger with what went in: the runs, their steps and what was told of them."""
    ended = await rows(db, "SELECT id, status FROM task_run")
    assert len(ended) == len(fed)
    assert {run_id for run_id, _ in ended} == fed
    assert {status for _, status in ended} == {"succeeded"}
    assert await rows(db, "SELECT count(*), count(DISTINCT run_id) FROM step_run") == [
        (len(fed), len(fed))
    ]
    told = await rows(
        db,
        "SELECT count(*), count(DISTINCT run_id) FROM fact WHERE topic = 'run.succeeded'",
    )
    assert told == [(len(fed), len(fed))]
