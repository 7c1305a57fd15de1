"""A scheduler that is killed between the answer of a receiver and its commit."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ordinaut.config import load_settings
from ordinaut.guard import Policy
from ordinaut.model import Event, uuid7
from ordinaut.scheduler.sender import LEASE, Sender
from ordinaut.store import journal, webhooks
from ordinaut.store.database import Database
from ordinaut.store.secrets import keyring
from queueing import rows
from receiving import receiving, verify

pytestmark = pytest.mark.chaos

PATIENCE = 40.0  # seconds; the machine may be busy
SLEEPING = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
)


async def until_asleep(db: Database) -> int:
    async with asyncio.timeout(PATIENCE):
        while not (found := await rows(db, SLEEPING)):  # noqa: ASYNC110  it is another process
            await asyncio.sleep(0.02)
    [(pid,)] = found
    return int(pid)


async def test_a_scheduler_killed_between_delivery_and_commit_delivers_again_under_the_same_id(
    db: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ORDINAUT_SECRET": "s" * 40,
        "ORDINAUT_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    keys, agent = keyring(load_settings(env)), uuid7()
    async with receiving() as receiver:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO agent (id, name) VALUES (%s, 'a')", (agent,))
            made = await webhooks.create(
                tx, url=receiver.url, topics=["order.paid"], filter=None, description="",
                owner=agent, now=datetime.now(UTC),
            )  # fmt: skip
            secret = await webhooks.new_secret(tx, made.id, keys=keys, overlap=timedelta(0))
            await tx.execute(
                "CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;"
                " CREATE TRIGGER slow BEFORE UPDATE OF attempts ON webhook_delivery"
                " FOR EACH ROW EXECUTE FUNCTION take_time()"
            )
        async with db.transaction() as tx:
            await journal.emit(tx, [Event("order.paid", {"total": 9})])

        with (tmp_path / "log").open("ab") as out:
            command = [sys.executable, "-m", "ordinaut", "scheduler"]
            process = await asyncio.to_thread(subprocess.Popen, command, env=env, stderr=out)
        try:
            [first] = await receiver.has(1, within=PATIENCE)
            pid = await until_asleep(db)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
        async with db.connection() as tx:
            await tx.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            await tx.execute("DROP TRIGGER slow ON webhook_delivery")

        state = "SELECT status, attempts FROM webhook_delivery"
        assert await rows(db, state) == [("pending", 0)]
        async with Sender(db, keys, Policy.of_webhooks(["127.0.0.0/8"])) as sender:
            later = datetime.now(UTC) + LEASE
            assert await sender.run_once(now=later)
            await sender.idle()

        [_, second] = receiver.messages
        assert (second.id, second.body) == (first.id, first.body)
        assert verify(secret, second.headers, second.body, now=later)["data"] == {"total": 9}
        assert await rows(db, state) == [("delivered", 1)]
