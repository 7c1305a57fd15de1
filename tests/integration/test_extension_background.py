"""Background tasks that one process of the cluster runs at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from extending import extension, settings, shown, write
from ordinaut.model import uuid7
from ordinaut.plugins import loader
from ordinaut.plugins.background import Supervisor
from ordinaut.plugins.host import ExtensionHost
from ordinaut.store import extensions
from ordinaut.store.database import Database

SETUP = "context['background'].run('duty', asyncio.Event().wait, one_leader=True)"


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, up to ten seconds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")


def state(host: ExtensionHost) -> object:
    (task,) = shown(host, "demo").background
    return task["state"]


async def test_one_of_two_processes_leads_and_the_other_follows(
    tmp_path: Path, db: Database
) -> None:
    code = extension("demo", wants="BACKGROUND_TASKS", setup=SETUP)
    write(tmp_path, "demo", code, grants=["BACKGROUND_TASKS"])
    found = loader.discover([tmp_path], built_in=False, installed=False)
    first = ExtensionHost(settings(), db=db, found=found)
    second = ExtensionHost(settings(), db=db, found=found)
    async with first:
        await until(lambda: state(first) == "running")
        async with second:
            await until(lambda: state(second) == "standing_by")
            await first.stop()
            await until(lambda: state(second) == "running")


class Flaky:
    """Leases that can be taken away."""

    def __init__(self) -> None:
        self.answer: bool | Exception = True
        self.given_back = 0

    async def take(self, name: str) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def give_back(self, name: str) -> None:
        self.given_back += 1
        raise ConnectionError("the database is away")


@pytest.mark.parametrize("answer", [False, ConnectionError("away")])
async def test_who_can_not_renew_stops(answer: bool | Exception) -> None:
    leases = Flaky()
    stopped = asyncio.Event()

    async def duty() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    supervisor = Supervisor("demo", leases)
    supervisor.run("duty", duty, one_leader=True)
    async with supervisor, asyncio.timeout(10):
        await until(lambda: supervisor.tasks[0].state == "running")
        leases.answer = answer
        await stopped.wait()
        await until(lambda: supervisor.tasks[0].state == "standing_by")
        leases.answer = True
        await until(lambda: supervisor.tasks[0].state == "running")
    assert leases.given_back >= 1


async def test_a_lease_that_ran_out_is_taken_by_the_next(db: Database) -> None:
    one, two = uuid7(), uuid7()
    long, short = timedelta(seconds=60), timedelta(microseconds=1)
    async with db.connection() as tx:
        assert await extensions.lead(tx, "ext:a:b", holder=one, lease=short)
        assert await extensions.lead(tx, "ext:a:b", holder=two, lease=long)
        assert not await extensions.lead(tx, "ext:a:b", holder=one, lease=long)
        assert await extensions.lead(tx, "ext:a:b", holder=two, lease=long)
        await extensions.follow(tx, "ext:a:b", holder=one)
        assert not await extensions.lead(tx, "ext:a:b", holder=one, lease=long)
        await extensions.follow(tx, "ext:a:b", holder=two)
        assert await extensions.lead(tx, "ext:a:b", holder=one, lease=long)
        cursor = await tx.execute("SELECT epoch FROM leader WHERE name = 'ext:a:b'")
        assert await cursor.fetchone() == (3,)
