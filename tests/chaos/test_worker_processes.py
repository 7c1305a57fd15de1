"""Worker processes that are killed, frozen and stopped in the middle of their work."""

from __future__ import annotations

import signal
from pathlib import Path
from uuid import UUID

import pytest

from ordinaut.model import Json
from ordinaut.store import queue
from ordinaut.store.database import Database
from queueing import enqueue, make_task, rows, status_of, work
from working import process, until, until_ended, until_status

pytestmark = pytest.mark.chaos

LEASE = 1.0  # seconds


def sleeping(seconds: float) -> Json:
    return {
        "pipeline": [
            {"id": "before", "uses": "core.transform", "with": {"value": 1}},
            {"id": "nap", "uses": "core.sleep", "with": {"seconds": seconds}},
        ]
    }


async def until_asleep(db: Database, run_id: UUID) -> None:
    """Wait until the run is within its second step: the first is written down."""

    async def asleep() -> bool:
        found = await rows(db, "SELECT step_id FROM step_run WHERE run_id = %s", run_id)
        return found == [("before",)]

    await until(asleep, what="the first step is written down")


async def until_expired(db: Database) -> queue.Expired:
    """Do what the janitor does until it finds something."""
    found = queue.Expired(0, 0)

    async def expired() -> bool:
        nonlocal found
        async with db.connection() as tx:
            found = await queue.expire(tx, limit=100)
        return found != queue.Expired(0, 0)

    await until(expired, what="a lease expired")
    return found


async def test_the_run_of_a_killed_worker_goes_to_another(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    item = work(await make_task(db, payload=sleeping(1.0)))
    await enqueue(db, item)
    with process(database_url, tmp_path / "first.log", lease_seconds=LEASE) as first:
        await until_asleep(db, item.id)
        first.send(signal.SIGKILL)
        first.wait()
        with process(database_url, tmp_path / "second.log", lease_seconds=LEASE):
            assert await until_expired(db) == queue.Expired(1, 0)
            await until_status(db, item.id, "succeeded")
    assert await rows(db, "SELECT attempt FROM task_run") == [(2,)]
    # The step that had completed was not executed again.
    assert await rows(db, "SELECT step_id, attempt FROM step_run ORDER BY 1") == [
        ("before", 1),
        ("nap", 1),
    ]
    counted = await rows(db, "SELECT count(*) FROM fact WHERE topic = 'step.succeeded'")
    assert counted == [(2,)]


async def test_the_late_result_of_a_frozen_worker_is_refused(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    item = work(await make_task(db, payload=sleeping(2.0)))
    await enqueue(db, item)
    with process(database_url, tmp_path / "first.log", lease_seconds=LEASE) as frozen:
        await until_asleep(db, item.id)
        frozen.send(signal.SIGSTOP)
        assert await until_expired(db) == queue.Expired(1, 0)
        with process(database_url, tmp_path / "second.log", lease_seconds=60):
            await until_status(db, item.id, "leased")
            [(holder, token)] = await rows(db, "SELECT locked_by, lease_token FROM due_work")
            frozen.send(signal.SIGCONT)
            await until_ended(db, 1)
            assert token == 2
            assert await rows(db, "SELECT worker_id, lease_token FROM task_run") == [
                (holder, token)
            ]

            async def told() -> bool:
                text = frozen.log.read_text()
                return "not ours any more" in text or "came too late" in text

            await until(told, what="the frozen worker learned that it lost its lease")
        frozen.send(signal.SIGTERM)
        assert frozen.wait() == 0
    ends = await rows(db, "SELECT count(*) FROM fact WHERE topic = 'run.succeeded'")
    assert ends == [(1,)]


async def test_a_stop_lets_runs_end_and_gives_back_the_rest_at_once(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    short, long = (
        await make_task(db, payload=sleeping(1.0)),
        await make_task(db, payload=sleeping(60)),
    )
    items = [work(short), work(long)]
    await enqueue(db, *items)
    with process(database_url, tmp_path / "worker.log", drain_seconds=3) as leaving:
        for item in items:
            await until_asleep(db, item.id)
        leaving.send(signal.SIGTERM)
        assert leaving.wait() == 0
    assert await status_of(db, items[0].id) == "succeeded"
    [row] = await rows(db, "SELECT id, state, attempt, crashes, resumed FROM due_work")
    assert row == (items[1].id, "ready", 0, 0, True)
    assert await rows(db, "SELECT state FROM worker") == [("stopped",)]


async def test_a_second_signal_does_not_wait_for_runs(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    item = work(await make_task(db, payload=sleeping(60)))
    await enqueue(db, item)
    with process(database_url, tmp_path / "worker.log", drain_seconds=600) as leaving:
        await until_asleep(db, item.id)
        leaving.send(signal.SIGTERM)

        async def draining() -> bool:
            return await rows(db, "SELECT state FROM worker") == [("draining",)]

        await until(draining, what="the worker drains")
        leaving.send(signal.SIGTERM)
        assert leaving.wait() == 0
    assert await status_of(db, item.id) == "ready"


async def test_workers_that_die_under_load_lose_and_double_nothing(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    task_id = await make_task(
        db, payload={"pipeline": [{"uses": "core.transform", "with": {"value": 1}}] * 2}
    )
    count = 4000
    items = [work(task_id) for _ in range(count)]
    await enqueue(db, *items)
    for number in range(3):
        with process(database_url, tmp_path / f"{number}.log", lease_seconds=LEASE) as victim:
            at_least = (number + 1) * 300

            async def some(least: int = at_least) -> bool:
                [(ended,)] = await rows(db, "SELECT count(*) FROM task_run")
                return bool(ended >= least)

            await until(some, what="some runs have ended")
            victim.send(signal.SIGKILL)
            victim.wait()
    with process(database_url, tmp_path / "last.log", lease_seconds=LEASE):

        async def over() -> bool:
            async with db.connection() as tx:
                await queue.expire(tx, limit=1000)
            [(left,)] = await rows(db, "SELECT count(*) FROM due_work")
            return bool(left == 0)

        await until(over, what="everything has ended", within=60)
    assert await rows(db, "SELECT status, count(*) FROM task_run GROUP BY 1") == [
        ("succeeded", count)
    ]
    ends = await rows(db, "SELECT count(*), count(DISTINCT run_id) FROM fact "
                          "WHERE topic = 'run.succeeded'")  # fmt: skip
    assert ends == [(count, count)]
