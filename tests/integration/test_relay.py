"""The relay: every committed event reaches Redis, in order, whatever Redis forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from ordinaut import bus as transport
from ordinaut.bus import MARKER, Bus, extension_stream
from ordinaut.clock import TravelClock
from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.errors import InvalidInput, Unavailable
from ordinaut.model import Event
from ordinaut.scheduler.spine import CHECK_EVERY, CURSOR, Relay
from ordinaut.store import journal
from ordinaut.store.database import Database
from relaying import number, publish, relay_all
from ticking import START, rows

pytestmark = pytest.mark.pooled


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[Bus]:
    async with Bus(redis_url) as connected:
        yield connected


def relay_of(db: Database, bus: Bus, *, batch: int = 1_000) -> Relay:
    return Relay(db, bus, TravelClock(START), batch=batch)


async def relayed(bus: Bus, stream: str = transport.EVENTS) -> list[int]:
    """Return the events in a stream, counted from 1, in its order."""
    found = await bus.tail(stream, after="0", block=0.001, limit=100_000)
    return [number(message.fields["id"]) for message in found]


async def test_an_event_arrives_as_a_cloudevent(db: Database, bus: Bus):
    task, run = UUID(int=1), UUID(int=2)
    async with db.transaction() as tx:
        await journal.emit(tx, [Event("run.succeeded", {"output": "ș"}, task, run)], now=START)

    await relay_all(relay_of(db, bus))

    [message] = await bus.tail(transport.EVENTS, after="0", block=0.01, limit=9)
    assert orjson.loads(message.fields["data"]) == {"output": "ș"}
    assert {**message.fields, "data": None} == {
        "specversion": "1.0",
        "id": "1000",
        "source": "/ordinaut",
        "type": "run.succeeded",
        "subject": str(run),
        "time": "2026-03-02T08:00:00+00:00",
        "taskid": str(task),
        "runid": str(run),
        "data": None,
    }


async def test_an_extensions_event_is_also_in_its_own_stream(db: Database, bus: Bus):
    async with db.transaction() as tx:
        await journal.emit(tx, [Event("ext.demo.door.opened", {}), Event("run.queued", {})])

    await relay_all(relay_of(db, bus))

    assert await relayed(bus, extension_stream("demo", "door.opened")) == [1]
    assert await relayed(bus) == [1, 2]


async def test_a_transaction_that_commits_late_is_not_skipped(
    db: Database, bus: Bus, database_url: str
):
    relay = relay_of(db, bus)
    async with Database(database_url) as other, other.transaction() as late:
        await journal.emit(late, [Event("test.late", {})])
        await publish(db, 3)
        await relay_all(relay)
        assert await relayed(bus) == [2, 3, 4]

    await relay_all(relay)
    assert await relayed(bus) == [2, 3, 4, 1]


async def test_a_transaction_that_stays_open_holds_back_nobody(
    db: Database, bus: Bus, database_url: str
):
    relay = relay_of(db, bus)
    async with Database(database_url) as other, other.transaction() as open_one:
        await open_one.execute("SELECT pg_current_xact_id()")
        for n in range(1, 4):
            await publish(db, 1)
            await relay_all(relay)
            assert await relayed(bus) == list(range(1, n + 1))


async def test_a_backlog_bigger_than_a_batch_goes_out_in_order(db: Database, bus: Bus):
    relay = relay_of(db, bus, batch=10)
    await publish(db, 35)
    assert await relay.run_once()
    await publish(db, 7)

    await relay_all(relay)

    assert await relayed(bus) == list(range(1, 43))


async def test_another_relay_goes_on_in_the_middle_of_a_round(db: Database, bus: Bus):
    await publish(db, 25)
    for _ in range(4):
        await relay_of(db, bus, batch=10).run_once()
    await relay_all(relay_of(db, bus, batch=7))

    assert await relayed(bus) == list(range(1, 26))


async def test_relays_side_by_side_send_each_event_once(
    db: Database, bus: Bus, database_url: str, redis_url: str
):
    await publish(db, 400)

    async def work() -> None:
        async with Database(database_url) as own, Bus(redis_url) as transport_:
            relay = relay_of(own, transport_, batch=20)
            for _ in range(30):
                await relay.run_once()

    await asyncio.gather(*(work() for _ in range(4)))
    await relay_all(relay_of(db, bus))

    assert await relayed(bus) == list(range(1, 401))


async def test_a_relay_that_died_after_appending_does_not_append_again(db: Database, bus: Bus):
    relay = relay_of(db, bus)
    await publish(db, 5)
    await relay_all(relay)
    before = await rows(db, "SELECT snapshot::text FROM event_cursor")
    await publish(db, 5)
    await relay_all(relay)
    async with db.connection() as tx:
        await tx.execute("UPDATE event_cursor SET snapshot = %s::pg_snapshot", before[0])

    await relay_all(relay_of(db, bus))

    assert await relayed(bus) == list(range(1, 11))


async def test_an_old_relay_that_wakes_up_late_appends_nothing(db: Database, bus: Bus):
    await publish(db, 3)
    await relay_all(relay_of(db, bus))
    async with db.transaction() as tx:
        held = await journal.lock_cursor(tx, CURSOR)
    await publish(db, 3)
    await relay_all(relay_of(db, bus))

    entry = transport.Entry(transport.EVENTS, {"id": "99"})
    assert not await bus.append([entry], expected=str(held), marker="late")
    assert await relayed(bus) == list(range(1, 7))


async def test_a_flushed_redis_is_filled_again(db: Database, bus: Bus):
    relay = relay_of(db, bus, batch=10)
    await publish(db, 25)
    await relay_all(relay)
    await bus._client.flushall()
    await publish(db, 5)

    await relay_all(relay)

    assert await relayed(bus) == list(range(1, 31))


async def test_a_flush_is_noticed_without_new_events(db: Database, bus: Bus):
    clock = TravelClock(START)
    relay = Relay(db, bus, clock)
    await publish(db, 4)
    await relay_all(relay)
    await bus._client.flushall()
    await relay.run_once()
    assert await relayed(bus) == []

    clock.move(timedelta(seconds=CHECK_EVERY))
    await relay_all(relay)
    assert await relayed(bus) == [1, 2, 3, 4]


async def test_a_flush_in_the_middle_of_a_refill_starts_it_again(db: Database, bus: Bus):
    relay = relay_of(db, bus, batch=10)
    await publish(db, 30)
    await relay_all(relay)
    await bus._client.flushall()
    await publish(db, 1)
    assert await relay.run_once()
    assert await relay.run_once()
    await bus._client.flushall()

    await relay_all(relay)

    assert await relayed(bus) == list(range(1, 32))


async def test_a_redis_that_lost_its_newest_entries_gets_them_again(db: Database, bus: Bus):
    relay = relay_of(db, bus)
    await publish(db, 5)
    await relay_all(relay)
    marker = await bus.marker()
    await publish(db, 5)
    await relay_all(relay)
    newest = await bus._client.xrevrange(transport.EVENTS, count=5)
    await bus._client.xdel(transport.EVENTS, *(id for id, _ in newest))
    await bus._client.set(MARKER, marker)
    await publish(db, 1)

    await relay_all(relay)

    assert await relayed(bus) == list(range(1, 12))


@pytest.mark.parametrize("marker", ["9999999:9999999:||0", "nonsense", "refill:x"])
async def test_a_marker_that_is_not_ours_is_not_believed(db: Database, bus: Bus, marker: str):
    await publish(db, 5)
    await bus._client.set(MARKER, marker)

    await relay_all(relay_of(db, bus))

    assert await relayed(bus) == [1, 2, 3, 4, 5]


async def test_a_database_that_was_restored_from_a_dump_is_relayed_on(
    db: Database, bus: Bus, database_url: str
):
    """Another cluster counts its transactions from a lower number than the dumped one did."""
    await publish(db, 4)
    async with db.connection() as tx:
        await tx.execute("UPDATE event SET xid = ((9000000 + seq / 1000)::text)::xid8")
        await tx.execute("UPDATE event_cursor SET snapshot = '9000003:9000003:'")
    async with Database(database_url) as other, other.transaction() as late:
        await journal.emit(late, [Event("test.late", {})])
        await publish(db, 1)
        await relay_all(relay_of(db, bus))
        assert await relayed(bus) == [1, 2, 3, 4, 6]

    await publish(db, 1)
    await relay_all(relay_of(db, bus))
    assert await relayed(bus) == [1, 2, 3, 4, 6, 5, 7]


async def test_without_redis_the_relay_waits_and_then_catches_up(db: Database, tmp_path: Path):
    with EmbeddedValkey(tmp_path / "valkey", fsync=False) as server:
        async with Bus(server.url) as bus:
            relay = relay_of(db, bus)
            server.kill()
            await publish(db, 3)
            with pytest.raises(Unavailable):
                await relay.run_once()
            server.start()
            await relay_all(relay)
            assert await relayed(bus) == [1, 2, 3]


async def test_the_stream_is_trimmed(db: Database, bus: Bus):
    entries = [transport.Entry(transport.EVENTS, {"id": str(n)}) for n in range(2_000)]
    await bus.append(entries, expected=None, marker="m", limit=500)

    assert 500 <= len(await relayed(bus)) < 700


@pytest.mark.parametrize(
    ("url", "wrong"),
    [("http://host", "http:// is not known"), ("redis+sentinel://host:1", "needs the name")],
)
def test_an_address_that_can_not_be_used_is_refused(url: str, wrong: str):
    with pytest.raises(InvalidInput, match=wrong):
        Bus(url)
