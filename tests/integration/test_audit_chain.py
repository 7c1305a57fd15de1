"""The chain over the audit log finds what was changed, removed or inserted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from typer.testing import CliRunner

from ordinaut.cli.main import app
from ordinaut.clock import SystemClock
from ordinaut.config import load_settings
from ordinaut.model import uuid7
from ordinaut.scheduler import janitor
from ordinaut.scheduler.janitor import HOLDING, Holding
from ordinaut.store import audit, chain, leaders
from ordinaut.store.audit import Actor
from ordinaut.store.chain import Key, Report
from ordinaut.store.database import Database, Tx
from queueing import rows

KEY = Key("k1", b"1" * 32)
SECRET = "a secret of the tests, long enough for it"


async def record(tx: Tx, number: int) -> None:
    actor = Actor(uuid7(), f"agent {number}", "request", "127.0.0.1")
    await audit.record(
        tx, actor, action="test.do", entity="test", entity_id=number, after={"n": number}
    )


async def recorded(db: Database, count: int) -> None:
    for number in range(count):
        async with db.transaction() as tx:
            await record(tx, number)


async def sealed(db: Database, *, limit: int = chain.BATCH) -> int:
    async with db.transaction() as tx:
        return await chain.seal(tx, KEY, limit=limit)


async def verified(db: Database, *, key: Key = KEY, noted: str | None = None) -> Report:
    async with db.connection() as tx:
        return await chain.verify(tx, {key.id: key}, noted=noted)


async def change(db: Database, statement: str, *values: Any) -> None:
    async with db.connection() as tx:
        done = await tx.execute(statement.encode(), values)
        assert done.rowcount >= 1


async def test_a_log_that_nobody_touched_is_whole(db: Database) -> None:
    await recorded(db, 3)
    assert (await verified(db)).pending == 3
    assert await sealed(db) == 3
    await recorded(db, 2)
    assert await sealed(db) == 2
    assert await sealed(db) == 0

    report = await verified(db)

    assert report.problems == []
    assert (report.head.position, report.pending) == (5, 0)


async def test_an_empty_log_is_whole(db: Database) -> None:
    assert await sealed(db) == 0
    assert (await verified(db)).problems == []


async def test_a_batch_that_is_full_goes_on_where_it_ended(db: Database) -> None:
    await recorded(db, 5)

    assert [await sealed(db, limit=2) for _ in range(3)] == [2, 2, 1]

    report = await verified(db)
    assert (report.problems, report.head.position) == ([], 5)


async def test_one_that_commits_late_is_sealed_late(db: Database) -> None:
    async with db.transaction() as slow:
        await record(slow, 0)
        await recorded(db, 2)
        assert await sealed(db) == 2
        await recorded(db, 1)
        assert await sealed(db) == 1
        assert (await verified(db)).pending == 0  # it is not visible yet
    assert (await verified(db)).pending == 1

    assert await sealed(db) == 1

    report = await verified(db)
    assert (report.problems, report.head.position, report.pending) == ([], 4, 0)
    assert await rows(db, "SELECT seq FROM audit_seal ORDER BY position") == [
        (2,), (3,), (4,), (1,)
    ]  # fmt: skip


async def test_writers_and_the_sealing_do_not_wait_for_each_other(db: Database) -> None:
    await recorded(db, 2)
    async with db.transaction() as sealing, asyncio.timeout(20):
        await chain.seal(sealing, KEY)
        await recorded(db, 2)
    assert await sealed(db) == 2
    assert (await verified(db)).problems == []


async def test_many_writers_at_once_make_one_chain(db: Database) -> None:
    async def write() -> None:
        for number in range(20):
            async with db.transaction() as tx:
                await record(tx, number)
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(write()) for _ in range(6)]
        while not all(writer.done() for writer in writers):
            await sealed(db, limit=7)
    while await sealed(db, limit=7):
        pass

    report = await verified(db)
    assert (report.problems, report.head.position, report.pending) == ([], 120, 0)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE audit_log SET actor = 'somebody else' WHERE seq = 3", "entry 3, or its seal,"),
        ("UPDATE audit_log SET after = '{\"n\": 7}' WHERE seq = 1", "entry 1, or its seal,"),
        ("UPDATE audit_log SET at = at - interval '1 microsecond' WHERE seq = 5", "entry 5, or"),
        ("UPDATE audit_log SET before = 'null' WHERE seq = 2", "entry 2, or its seal,"),
        ("UPDATE audit_seal SET hash = sha256('x') WHERE position = 4", "entry 4, or its seal,"),
        ("DELETE FROM audit_log WHERE seq = 2", "entry 2 was removed"),
        ("DELETE FROM audit_log WHERE seq = 5", "entry 5 was removed"),
        ("DELETE FROM audit_seal WHERE position = 3", "the seals 3 to 3 were removed"),
        ("UPDATE audit_seal SET key_id = 'k0' WHERE position = 2", "entry 2 was sealed with"),
    ],
)
async def test_what_was_changed_or_removed_is_found(
    db: Database, statement: str, complaint: str
) -> None:
    await recorded(db, 5)
    await sealed(db)

    await change(db, statement)

    problems = (await verified(db)).problems
    assert problems[0].startswith(complaint), problems


INSERT = (
    "INSERT INTO audit_log (seq, actor, action, entity, entity_id{}) OVERRIDING SYSTEM VALUE "
    "VALUES ({}, 'x', 'x', 'x', 'x'{})"
)


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        (INSERT.format("", "3", ""), 3),  # between others
        (INSERT.format(", xid", "100", ", '5'"), 100),  # as if it had been there long ago
    ],
)
async def test_what_was_inserted_is_found(db: Database, statement: str, entry: int) -> None:
    await recorded(db, 2)
    async with db.connection() as tx:
        await tx.execute("SELECT nextval('audit_log_seq_seq')")
    await recorded(db, 2)
    await sealed(db)

    await change(db, statement)
    await sealed(db)

    assert (await verified(db)).problems == [f"entry {entry} was inserted beside the chain"]


async def test_a_removal_and_its_seals_at_the_end_need_a_noted_head(db: Database) -> None:
    await recorded(db, 5)
    await sealed(db)
    head = str((await verified(db)).head)
    await recorded(db, 1)
    await sealed(db)
    assert (await verified(db, noted=head)).problems == []

    await change(db, "DELETE FROM audit_log WHERE seq > 4")
    await change(db, "DELETE FROM audit_seal WHERE position > 4")

    assert (await verified(db)).problems == []
    assert (await verified(db, noted=head)).problems == [
        f"the head {head} that was noted is not in the chain"
    ]


async def test_without_the_key_nobody_makes_a_chain_that_fits(db: Database) -> None:
    await recorded(db, 3)
    async with db.transaction() as tx:
        await chain.seal(tx, Key("k1", b"2" * 32))

    assert len((await verified(db)).problems) == 3


async def test_the_leader_seals_and_the_command_verifies(db: Database, database_url: str) -> None:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": "redis://", "ORDINAUT_SECRET": SECRET}
    settings = load_settings(environ)
    await recorded(db, 3)
    async with db.transaction() as tx:
        epoch = await leaders.seize(tx, "housekeeping", holder=uuid7(), lease=janitor.STALL)
    assert epoch is not None
    HOLDING.set(Holding(db, settings, SystemClock(), epoch))
    await janitor.seal_audit_log()

    def verify(*options: str) -> Any:
        return CliRunner().invoke(app, ["audit", "verify", *options], env=environ)

    good = await asyncio.to_thread(verify)
    head = good.output.strip().split("head ")[1]
    noted = await asyncio.to_thread(verify, "--head", head)
    await change(db, "UPDATE audit_log SET actor = 'x' WHERE seq = 2")
    bad = await asyncio.to_thread(verify)

    assert (good.exit_code, noted.exit_code, bad.exit_code) == (0, 0, 1), bad.output
    assert good.output.startswith("3 entries; head 3:")
    assert bad.output.startswith("entry 2, or its seal, was changed\n")
