"""The relay while it and Redis die: nothing is lost, and each task's events keep their order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.store.database import Database
from relaying import Reader, publish, relaying

pytestmark = pytest.mark.chaos

EVENTS = 100_000
PART = 2_000  # while there is trouble; the others come after it
ROUNDS = 3

RELAY = """
import asyncio, sys
from ordinaut.bus import Bus
from ordinaut.clock import SystemClock
from ordinaut.scheduler.spine import Relay
from ordinaut.store.database import Database

async def main(database_url, redis_url):
    async with Database(database_url, size=1) as db, Bus(redis_url) as bus:
        relay = Relay(db, bus, SystemClock())
        while True:
            if not await relay.run_once():
                await asyncio.sleep(0.01)

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def relay_process(database_url: str, redis_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A relay in a process of its own, killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", RELAY, database_url, redis_url])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def assert_complete_and_in_order(reader: Reader) -> None:
    assert len(reader.ids) == EVENTS
    assert len(reader.first_seen()) == 5
    for task, order in reader.first_seen().items():
        assert order == sorted(order), f"the events of {task} came out of order"


async def test_a_hundred_thousand_events_arrive_while_redis_is_killed_flushed_and_restarted(
    db: Database, tmp_path: Path
):
    """Three times each, always in the middle of the relaying."""
    with EmbeddedValkey(tmp_path / "valkey") as server:

        def kill() -> None:
            server.kill()
            server.start()

        def flush() -> None:
            with redis.Redis.from_url(server.url) as client:
                client.flushall()

        async with Reader(server.url) as reader, relaying(db, server.url, batch=500):
            published = 0
            for trouble in ROUNDS * (kill, flush, server.restart):
                await publish(db, PART)
                published += PART
                await reader.has([published - PART // 2], within=240)
                await asyncio.to_thread(trouble)
            await publish(db, EVENTS - published)
            await reader.has(range(1, EVENTS + 1), within=240)

        assert_complete_and_in_order(reader)


async def test_a_hundred_thousand_events_arrive_while_the_relay_is_killed(
    db: Database, database_url: str, redis_url: str
):
    async with Reader(redis_url) as reader:
        published = 0
        for _ in range(ROUNDS):
            await publish(db, PART)
            published += PART
            with relay_process(database_url, redis_url) as process:
                await reader.has([published - PART // 2], within=240)
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
        with relay_process(database_url, redis_url):
            await publish(db, EVENTS - published)
            await reader.has(range(1, EVENTS + 1), within=240)

    assert_complete_and_in_order(reader)


async def test_events_arrive_while_one_relay_after_the_other_is_cut_off(
    db: Database, redis_url: str
):
    async with Reader(redis_url) as reader:
        for part in range(1, 6):
            async with relaying(db, redis_url, batch=50):
                await publish(db, 1_000)
                await reader.has([part * 1_000 - 500], within=30)
        async with relaying(db, redis_url):
            await reader.has(range(1, 5_001), within=30)

        for order in reader.first_seen().values():
            assert order == sorted(order)
