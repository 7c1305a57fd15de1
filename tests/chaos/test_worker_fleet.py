"""Several worker processes under one parent: started again, drained together, never orphaned."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import httpx2
import psutil
import pytest

from ordinaut.store.database import Database
from queueing import enqueue, make_task, rows, work
from working import Process, process, until, until_ended

pytestmark = pytest.mark.chaos

RUNNING = "SELECT count(*) FROM worker WHERE state = 'running'"
TWO = ("--processes", "2")


def children_of(parent: Process) -> list[psutil.Process]:
    return psutil.Process(parent.popen.pid).children()


async def until_running(db: Database, count: int) -> None:
    """Wait until so many workers have reported."""

    async def reported() -> bool:
        return await rows(db, RUNNING) == [(count,)]

    await until(reported, what=f"{count} workers run")


async def test_the_processes_share_the_work_and_drain_together(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    nap = {"pipeline": [{"uses": "core.sleep", "with": {"seconds": 0.05}}]}
    task_id = await make_task(db, payload=nap)
    with process(database_url, tmp_path / "log", *TWO, worker_concurrency=1) as parent:
        await until_running(db, 2)
        await enqueue(db, *(work(task_id) for _ in range(40)))
        await until_ended(db, 40)
        children = children_of(parent)
        parent.send(signal.SIGTERM)
        assert parent.wait() == 0
    assert not any(child.is_running() for child in children)
    assert await rows(db, "SELECT count(DISTINCT worker_id) FROM task_run") == [(2,)]
    assert await rows(db, "SELECT DISTINCT state FROM worker") == [("stopped",)]


async def test_a_process_that_ends_is_started_again(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with process(database_url, tmp_path / "log", *TWO, worker_health_port=port) as parent:
        await until_running(db, 2)
        victim = children_of(parent)[0]
        victim.kill()
        await until_running(db, 3)  # the dead one can not say that it stopped
        async with httpx2.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/health")
    assert answer.status_code == 200
    assert victim.pid not in answer.json()["pids"]
    assert (len(answer.json()["pids"]), answer.json()["restarts"]) == (2, 1)


async def test_a_killed_parent_leaves_no_workers_behind(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    with process(database_url, tmp_path / "log", *TWO) as parent:
        await until_running(db, 2)
        children = children_of(parent)
        parent.send(signal.SIGKILL)
        parent.wait()

    async def gone() -> bool:
        return not any(child.is_running() for child in children)

    await until(gone, what="the children have left")
    assert await rows(db, "SELECT DISTINCT state FROM worker") == [("stopped",)]
