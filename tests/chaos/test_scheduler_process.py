"""Scheduler processes that are killed, frozen, cut off and stopped: nothing lost or doubled.

The tasks catch up on everything, because on a loaded machine the next process may need longer
to start than the seconds after which its absence counts as a downtime.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.scheduler import janitor
from ordinaut.store import migrate
from ordinaut.store.database import Database
from ticking import add_task, enqueued, rows, scheduler

pytestmark = pytest.mark.chaos

PATIENCE = 20.0  # seconds


async def until(check: Callable[[], bool], *, within: float = PATIENCE) -> None:
    """Wait until a fact about the processes is true."""
    async with asyncio.timeout(within):
        while not check():  # noqa: ASYNC110  what we wait for is outside of this process
            await asyncio.sleep(0.02)


def do(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def ask(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()  # type: ignore[call-overload]
        return row and row[0]


def sessions(url: str, condition: str) -> int:
    """Count the schedulers' sessions that are in a state."""
    found = ask(
        url,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ordinaut-scheduler'"
        f" AND datname = current_database() AND {condition}",
    )
    return int(str(found))


def slow_inserts(url: str, *, seconds: float) -> None:
    """Let each insert of due work take its time, so that a tick can be caught in the middle."""
    do(
        url,
        "CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;"
        " CREATE TRIGGER slow BEFORE INSERT ON due_work"
        " FOR EACH STATEMENT EXECUTE FUNCTION take_time()",
    )


def quick_inserts(url: str) -> None:
    do(url, "DROP TRIGGER slow ON due_work")


def this_minute() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


async def test_a_scheduler_killed_in_the_middle_of_a_tick_loses_and_doubles_nothing(
    db: Database, database_url: str, redis_url: str, tmp_path: Path
):
    born = this_minute() - timedelta(seconds=10)
    tasks = [
        await add_task(db, "interval", "PT5S", born=born, starts_at=born, catchup="all")
        for _ in range(3)
    ]
    slow_inserts(database_url, seconds=1.0)
    inserting = "wait_event = 'PgSleep' AND query LIKE '%INSERT INTO due_work%'"

    with scheduler(database_url, redis_url, tmp_path / "log") as first:
        await until(lambda: sessions(database_url, inserting) > 0)
        first.kill()
        first.wait()
    assert await rows(db, "SELECT count(*) FROM due_work") == [(0,)]
    quick_inserts(database_url)

    with scheduler(database_url, redis_url, tmp_path / "log"):
        for task in tasks:
            await wait_for_runs(db, task, at_least=4)

    assert_without_gaps(await rows(db, "SELECT task_id, scheduled_for FROM due_work"), tasks, born)


async def test_a_frozen_scheduler_holds_its_tasks_for_seconds_only(
    db: Database, database_url: str, redis_url: str, tmp_path: Path
):
    born = this_minute()
    slow_inserts(database_url, seconds=0.5)
    inserting = "wait_event = 'PgSleep' AND query LIKE '%INSERT INTO due_work%'"

    with scheduler(database_url, redis_url, tmp_path / "frozen") as frozen:
        task = await add_task(db, "interval", "PT1S", born=born, starts_at=born, catchup="all")
        await until(lambda: sessions(database_url, inserting) > 0)
        frozen.send_signal(signal.SIGSTOP)
        await until(lambda: sessions(database_url, "state = 'idle in transaction'") > 0)
        before = len(await enqueued(db, task))
        with scheduler(database_url, redis_url, tmp_path / "other"):
            await wait_for_runs(db, task, at_least=before + 5)
            frozen.send_signal(signal.SIGCONT)
            await wait_for_runs(db, task, at_least=before + 8)

    found = await rows(db, "SELECT task_id, scheduled_for FROM due_work")
    assert_without_gaps(found, [task], born)


async def test_a_scheduler_survives_cut_connections(
    db: Database, database_url: str, redis_url: str, tmp_path: Path
):
    born = this_minute()
    task = await add_task(db, "interval", "PT1S", born=born, starts_at=born, catchup="all")
    with scheduler(database_url, redis_url, tmp_path / "log") as process:
        for count in (2, 4, 6):
            await wait_for_runs(db, task, at_least=count)
            ask(
                database_url,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name LIKE 'ordinaut-scheduler%'"
                " AND datname = current_database()",
            )
        await wait_for_runs(db, task, at_least=9)
        assert process.poll() is None

    found = await rows(db, "SELECT task_id, scheduled_for FROM due_work")
    assert_without_gaps(found, [task], born)


async def test_a_scheduler_survives_a_restart_of_postgresql(redis_url: str, tmp_path: Path):
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        url = server.url_of("postgres")
        migrate.upgrade(url)
        born = this_minute()
        async with Database(url) as db:
            task = await add_task(db, "interval", "PT1S", born=born, starts_at=born, catchup="all")
        with scheduler(url, redis_url, tmp_path / "log") as process:
            async with Database(url) as db:
                await wait_for_runs(db, task, at_least=2)
            server.kill()
            await asyncio.sleep(1)  # not to synchronise: the length of the outage
            await asyncio.to_thread(server.start)
            async with Database(url) as db:
                count = len(await enqueued(db, task))
                await wait_for_runs(db, task, at_least=count + 3)
                found = await rows(db, "SELECT task_id, scheduled_for FROM due_work")
            assert process.poll() is None
    assert_without_gaps(found, [task], born)


async def test_a_scheduler_stops_when_it_is_asked_to_and_leaves_its_duties(
    db: Database, database_url: str, redis_url: str, tmp_path: Path
):
    with scheduler(database_url, redis_url, tmp_path / "log") as process:
        await until(
            lambda: ask(database_url, "SELECT count(*) FROM leader WHERE holder IS NOT NULL") == 2
        )
        jobs = len(janitor.JOBS)
        await until(lambda: ask(database_url, "SELECT count(*) FROM apscheduler_jobs") == jobs)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0

    assert await rows(db, "SELECT holder FROM leader WHERE holder IS NOT NULL") == []
    assert await rows(db, "SELECT kind, state FROM worker") == [("scheduler", "stopped")]


async def test_another_scheduler_takes_the_duties_of_a_killed_one(
    database_url: str, redis_url: str, tmp_path: Path
):
    holders = "SELECT count(DISTINCT holder) FROM leader WHERE holder IS NOT NULL"
    with scheduler(database_url, redis_url, tmp_path / "first") as first:
        await until(lambda: ask(database_url, holders) == 1)
        await until(lambda: ask(database_url, "SELECT min(epoch) FROM leader") == 1)
        with scheduler(database_url, redis_url, tmp_path / "second"):
            first.kill()
            await until(lambda: ask(database_url, "SELECT min(epoch) FROM leader") == 2)


async def wait_for_runs(db: Database, task: object, *, at_least: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            [(count,)] = await rows(db, "SELECT count(*) FROM due_work WHERE task_id = %s", task)
            if count >= at_least:
                return
            await asyncio.sleep(0.05)


def assert_without_gaps(
    found: list[tuple[object, datetime]], tasks: list[object], born: datetime
) -> None:
    """Every occurrence up to the last one became exactly one run."""
    for task in tasks:
        ats = sorted(at for id, at in found if id == task)
        steps = {later - earlier for earlier, later in pairwise(ats)}
        assert len(steps) == 1, f"gaps or doubles in {ats}"
        assert ats[0] - born <= steps.pop()
