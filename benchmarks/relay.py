"""The relay beside a plain pipeline of XADD, in one run.

    .venv/bin/python -m benchmarks.relay [--events 100000] [--json FILE]

Both move the same events into an empty Valkey (append-only file, fsync every second). The plain
pipeline has them in memory already; the relay reads them from the outbox, appends them with its
marker in a transaction, and stores its cursor. They take turns. PostgreSQL has fsync on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from ordinaut.bus import EVENTS, MAX_LENGTH, Bus, Entry
from ordinaut.clock import SystemClock
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.model import Event, uuid7
from ordinaut.scheduler.spine import BATCH, Relay
from ordinaut.store import journal, migrate
from ordinaut.store.database import SMALL, Database

ROUNDS = 3
TOPICS = ("run.queued", "run.started", "step.succeeded", "run.succeeded")
DATA = {"status": "succeeded", "attempt": 1, "scheduled_for": "2026-03-02T09:00:00+00:00"}


async def publish(db: Database, count: int) -> None:
    for start in range(0, count, 1_000):
        size = min(1_000, count - start)
        events = [Event(TOPICS[n % 4], DATA, uuid7(), uuid7()) for n in range(size)]
        async with db.transaction() as tx:
            await journal.emit(tx, events)


async def relayed(db: Database, url: str, count: int) -> float:
    """Return how many events a second the relay moves."""
    await publish(db, count)
    clock = SystemClock()
    async with Bus(url) as bus:
        relay = Relay(db, bus, clock)
        begun = clock.monotonic()
        while await relay.run_once():
            pass
        return count / (clock.monotonic() - begun)


async def plain(url: str, entries: list[Entry]) -> float:
    """Return how many entries a second a pipeline of the client moves."""
    clock = SystemClock()
    async with Redis.from_url(url, decode_responses=True) as client:
        begun = clock.monotonic()
        for start in range(0, len(entries), BATCH):
            async with client.pipeline(transaction=False) as pipe:
                for stream, fields in entries[start : start + BATCH]:
                    pipe.xadd(stream, dict(fields), maxlen=MAX_LENGTH, approximate=True)
                await pipe.execute()
        return len(entries) / (clock.monotonic() - begun)


async def stored(url: str) -> list[Entry]:
    """Return what the relay has appended, to be appended again to an empty server."""
    found: list[Entry] = []
    after = "0"
    async with Bus(url) as bus:
        while page := await bus.tail(EVENTS, after=after, block=0.01, limit=2_000):
            found += [Entry(EVENTS, message.fields) for message in page]
            after = page[-1].id
    async with Redis.from_url(url) as client:
        await client.flushall()
    return found


async def measure(database_url: str, redis_url: str, count: int) -> dict[str, float]:
    relay_rates, plain_rates = [], []
    async with Database(database_url, size=2, options=SMALL) as db:
        for _ in range(ROUNDS):
            relay_rates.append(await relayed(db, redis_url, count))
            plain_rates.append(await plain(redis_url, await stored(redis_url)))
            async with db.connection() as connection:
                await connection.execute("TRUNCATE event")
    return {
        "relay": round(max(relay_rates)),
        "plain": round(max(plain_rates)),
        "ratio": round(max(relay_rates) / max(plain_rates), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "data") as postgres,
        EmbeddedValkey(Path(folder) / "valkey") as valkey,
    ):
        url = postgres.url_of("postgres")
        migrate.upgrade(url)
        found = uvloop.run(measure(url, valkey.url, options.events))
    print(f"relay {found['relay']:,}/s, plain pipeline {found['plain']:,}/s: {found['ratio']}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
