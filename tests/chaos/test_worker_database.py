"""A worker whose PostgreSQL crashes and restarts under it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.store import migrate, queue
from ordinaut.store.database import Database
from queueing import enqueue, make_task, rows, work
from working import process, until

pytestmark = pytest.mark.chaos

COUNT = 6000


async def ended(db: Database) -> int:
    """Return how many runs have ended; none that we hear of while the server is away."""
    try:
        [(count,)] = await rows(db, "SELECT count(*) FROM task_run")
    except psycopg.Error:
        return 0
    return int(count)


async def test_every_run_ends_once_although_the_database_crashes(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data") as server:
        migrate.upgrade(server.url)
        async with Database(server.url) as db:
            pipeline = [{"uses": "core.transform", "with": {"value": 1}}] * 2
            task_id = await make_task(db, payload={"pipeline": pipeline})
            items = [work(task_id) for _ in range(COUNT)]
            await enqueue(db, *items)
            with process(server.url, tmp_path / "worker.log", lease_seconds=1.0):
                for least, restart in (
                    (500, server.kill),
                    (2000, server.stop),
                    (3500, server.kill),
                ):

                    async def some(least: int = least) -> bool:
                        return await ended(db) >= least

                    await until(some, what=f"{least} runs have ended", within=60)
                    restart()
                    await asyncio.to_thread(server.start)

                async def over() -> bool:
                    try:
                        async with db.connection() as tx:
                            await queue.expire(tx, limit=10_000)
                    except psycopg.Error:
                        return False
                    return await ended(db) == COUNT

                await until(over, what="everything has ended", within=60)
            assert await rows(db, "SELECT status, count(*) FROM task_run GROUP BY 1") == [
                ("succeeded", COUNT)
            ]
            told = await rows(
                db,
                "SELECT topic, count(*), count(DISTINCT run_id) FROM fact "
                "WHERE topic IN ('run.queued', 'run.succeeded') GROUP BY 1 ORDER BY 1",
            )
            assert told == [("run.queued", COUNT, COUNT), ("run.succeeded", COUNT, COUNT)]
            [(steps,)] = await rows(db, "SELECT count(*) FROM step_run")
            assert steps == 2 * COUNT
            doubled = await rows(
                db,
                "SELECT count(*) FROM (SELECT 1 FROM fact WHERE topic = 'step.succeeded' "
                "GROUP BY run_id, data ->> 'step_id' HAVING count(*) > 1) AS twice",
            )
            assert doubled == [(0,)]
