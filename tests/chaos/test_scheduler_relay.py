"""The relay while Redis dies under it: nothing is lost, and each task's events keep their order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.store.database import Database
from relaying import Reader, publish, relaying

pytestmark = pytest.mark.chaos

EVENTS = 20_000


async def test_twenty_thousand_events_arrive_while_redis_is_killed_flushed_and_restarted(
    db: Database, tmp_path: Path
):
    with EmbeddedValkey(tmp_path / "valkey") as server:

        def flush() -> None:
            with redis.Redis.from_url(server.url) as client:
                client.flushall()

        def crash() -> None:
            server.kill()
            server.start()

        async with Reader(server.url) as reader, relaying(db, server.url):
            published = 0
            for trouble in (crash, flush, server.restart, crash, flush):
                await publish(db, EVENTS // 5)
                published += EVENTS // 5
                # In the middle of the relaying, not after it.
                await reader.has([published - EVENTS // 10], within=30)
                await asyncio.to_thread(trouble)
            await reader.has(range(1, EVENTS + 1), within=60)

        assert len(reader.first_seen()) == 5
        for task, order in reader.first_seen().items():
            assert order == sorted(order), f"the events of {task} came out of order"


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
