"""Who listens to the streams: lag, pending, dead consumers, dead letters; on a real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from calling import NOW, act, assert_problem, client_to, make_agent, rows, settings_of, started
from ordinaut import bus as transport
from ordinaut import subscribers
from ordinaut.bus import Bus, Entry
from ordinaut.clock import TravelClock
from ordinaut.model import Event
from ordinaut.plugins.base import Message
from ordinaut.plugins.events import Consumer, Pace, Subscription
from ordinaut.store import journal
from ordinaut.store.database import Database
from working import until

STREAM = transport.extension_stream("demo", "told")
QUICK = Pace(block=0.05, first_pause=0.001, claim_idle=0.001, claim_every=100.0, tries=2)


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[Bus]:
    async with Bus(redis_url) as one:
        yield one


@pytest.fixture
async def admin(
    db: Database, database_url: str, redis_url: str
) -> AsyncIterator[httpx2.AsyncClient]:
    settings = settings_of(database_url, redis_url)
    _, key = await make_agent(db, settings, "admin")
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        yield client


class Ears:
    """A group that hears; of what is poison it dies as often as it is told."""

    def __init__(self, bus: Bus, group: str) -> None:
        self.heard: list[int] = []
        self.poison: set[int] = set()
        self.group = group
        self._consumer = Consumer(Subscription(STREAM, group, self._hear), bus, QUICK)

    async def _hear(self, message: Message) -> None:
        if message.data["n"] in self.poison:
            raise RuntimeError("poison")
        self.heard.append(message.data["n"])

    async def run(self) -> None:
        await self._consumer.run_once()


async def put(bus: Bus, *numbers: int) -> None:
    for n in numbers:
        fields = {"id": f"{n}000", "type": "ext.demo.told", "data": json.dumps({"n": n})}
        await bus.put(Entry(STREAM, fields))


async def ears(bus: Bus, group: str) -> Ears:
    await bus.ensure_group(STREAM, group, start="0")
    return Ears(bus, group)


async def claimed(bus: Bus, consumer: str) -> transport.Message:
    """Let a consumer claim the only message as soon as the server says that it was left."""
    async with asyncio.timeout(10):
        while not (found := await bus.claim(STREAM, "demo:one", consumer, idle=0, limit=10)):
            pass
    return found[0]


async def asked(db: Database) -> list[tuple[object, ...]]:
    """What the audit log says of dead letters."""
    query = "SELECT action, entity_id, after FROM audit_log WHERE action LIKE 'dead%%' ORDER BY seq"
    return await rows(db, query)


async def told(client: httpx2.AsyncClient) -> dict[str, object]:
    answer = await client.get("/events/subscribers")
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = {one["stream"]: one for one in answer.json()["items"]}[STREAM]
    return found


async def test_lag_and_pending_of_a_group_are_shown(bus: Bus, admin: httpx2.AsyncClient) -> None:
    one = await ears(bus, "demo:one")
    await ears(bus, "demo:two")
    await put(bus, 1, 2)
    await one.run()
    await put(bus, 3)
    await bus.read(STREAM, "demo:one", "frozen", block=1, limit=1)
    await put(bus, 4, 5)

    found = await told(admin)

    assert (found["length"], found["dead_letters"]) == (5, 0)
    shown = {g["group"]: (g["lag"], g["pending"]) for g in found["groups"]}  # type: ignore[attr-defined]
    assert shown == {"demo:one": (2, 1), "demo:two": (5, 0)}


async def test_a_consumer_that_holds_messages_and_is_silent_is_dead(bus: Bus) -> None:
    await ears(bus, "demo:one")
    await put(bus, 1)
    await bus.read(STREAM, "demo:one", "silent", block=1, limit=1)
    await bus.read(STREAM, "demo:one", "idle", block=0.001, limit=1)

    [stream] = await subscribers.overview(bus)
    assert [(m.name, m.pending, m.dead) for m in stream.groups[0].consumers] == [
        ("idle", 0, False),
        ("silent", 1, False),
    ]
    [stream] = await subscribers.overview(bus, dead_after=0.0)
    assert {m.name: m.dead for m in stream.groups[0].consumers} == {"idle": False, "silent": True}


async def test_a_dead_letter_is_listed_and_redelivered_to_its_group_alone(
    db: Database, bus: Bus, admin: httpx2.AsyncClient
) -> None:
    one, two = await ears(bus, "demo:one"), await ears(bus, "demo:two")
    one.poison = {1}
    await put(bus, 1, 2)
    await one.run()
    await two.run()

    query = {"stream": STREAM}
    [letter] = (await admin.get("/events/dead-letters", params=query)).json()["items"]
    assert letter == {
        "id": letter["id"],
        "stream": STREAM,
        "group": "demo:one",
        "error": "RuntimeError: poison",
        "event_id": "1000",
        "topic": "ext.demo.told",
        "payload": {"n": 1},
    }
    assert (await told(admin))["dead_letters"] == 1

    one.poison.clear()
    answer = await act(admin, "/events/dead-letters/redeliver", stream=STREAM, ids=[letter["id"]])
    await one.run()
    await two.run()

    assert answer == {"count": 1}
    assert (one.heard, two.heard) == ([2, 1], [1, 2])
    found = await told(admin)
    assert found["dead_letters"] == 0
    assert {g["pending"] for g in found["groups"]} == {0}  # type: ignore[attr-defined]
    assert (await act(admin, "/events/dead-letters/redeliver", **query, ids=[letter["id"]])) == {
        "count": 0
    }
    assert await asked(db) == [("dead_letters.redeliver", STREAM, {"ids": [letter["id"]]})] * 2


async def test_a_letter_that_is_poison_still_comes_back_once(
    bus: Bus, admin: httpx2.AsyncClient
) -> None:
    one = await ears(bus, "demo:one")
    one.poison = {1}
    await put(bus, 1)
    await one.run()
    [letter] = await subscribers.letters(bus, STREAM, before=None, limit=10)

    await subscribers.redeliver(bus, STREAM, [letter.id])
    await one.run()

    [again] = await subscribers.letters(bus, STREAM, before=None, limit=10)
    assert (again.id != letter.id, again.fields["group"]) == (True, "demo:one")


async def test_dead_letters_are_paged_and_dropped(bus: Bus, admin: httpx2.AsyncClient) -> None:
    one = await ears(bus, "demo:one")
    one.poison = set(range(5))
    await put(bus, *range(5))
    await one.run()
    query: dict[str, str | int] = {"stream": STREAM, "limit": 3}

    first = (await admin.get("/events/dead-letters", params=query)).json()
    more = {**query, "cursor": first["next_cursor"]}
    second = (await admin.get("/events/dead-letters", params=more)).json()

    assert [x["payload"]["n"] for x in first["items"] + second["items"]] == [4, 3, 2, 1, 0]
    assert second["next_cursor"] is None
    ids = [x["id"] for x in first["items"]]
    assert await act(admin, "/events/dead-letters/drop", stream=STREAM, ids=ids) == {"count": 3}
    left = (await admin.get("/events/dead-letters", params=query)).json()["items"]
    assert [x["payload"]["n"] for x in left] == [1, 0]


async def test_before_the_first_place_there_are_no_dead_letters(
    bus: Bus, admin: httpx2.AsyncClient
) -> None:
    await bus.put(Entry(STREAM + transport.DEAD, {"id": "1", "group": "demo:one"}))

    for cursor in ("0-0", "00-0"):
        query = {"stream": STREAM, "cursor": cursor}
        answer = await admin.get("/events/dead-letters", params=query)
        assert (answer.status_code, answer.json()["items"]) == (200, [])
    for cursor in (f"{1 << 64}-0", f"0-{1 << 64}", "١-١", "-", "0"):
        query = {"stream": STREAM, "cursor": cursor}
        answer = await admin.get("/events/dead-letters", params=query)
        assert assert_problem(answer, status=422)["errors"][0]["path"] == "cursor"


async def test_what_nobody_acknowledges_goes_from_consumer_to_consumer_to_the_dead_letters(
    bus: Bus, admin: httpx2.AsyncClient
) -> None:
    one = await ears(bus, "demo:one")
    await put(bus, 1)
    [first] = await bus.read(STREAM, "demo:one", "silent 1", block=1, limit=10)
    second, third = await claimed(bus, "silent 2"), await claimed(bus, "silent 3")

    assert (first.deliveries, second, third) == (
        1,
        first._replace(deliveries=2),
        first._replace(deliveries=3),
    )
    [group] = (await told(admin))["groups"]  # type: ignore[misc, attr-defined]
    assert (group["lag"], group["pending"]) == (0, 1)
    held = {member["name"]: member["pending"] for member in group["consumers"]}
    assert held == {"silent 1": 0, "silent 2": 0, "silent 3": 1}

    await one.run()

    assert one.heard == []
    [letter] = (await admin.get("/events/dead-letters", params={"stream": STREAM})).json()["items"]
    assert (letter["event_id"], letter["group"]) == ("1000", "demo:one")
    assert letter["error"] == "its consumers died 3 times"
    found = await told(admin)
    assert (found["dead_letters"], found["groups"][0]["pending"]) == (1, 0)  # type: ignore[index]


async def test_topics_say_how_many_groups_listen(
    db: Database, bus: Bus, admin: httpx2.AsyncClient
) -> None:
    await ears(bus, "demo:one")
    await ears(bus, "demo:two")
    await bus.ensure_group(transport.EVENTS, "demo:all")
    await act(admin, "/events", 202, topic="order.paid")
    async with db.connection() as tx:
        await journal.emit(tx, [Event("ext.demo.told", {"n": 1})])

    found = (await admin.get("/events/topics")).json()["items"]

    shown = {one["topic"]: one["groups"] for one in found}
    assert (shown["order.paid"], shown["ext.demo.told"]) == (1, 3)


async def test_a_letter_of_a_group_that_is_gone_stays(bus: Bus, admin: httpx2.AsyncClient) -> None:
    fields = {"id": "1", "type": "x", "group": "demo:gone", "error": "x", "data": "broken {"}
    await bus.put(Entry(STREAM + transport.DEAD, fields))
    [letter] = (await admin.get("/events/dead-letters", params={"stream": STREAM})).json()["items"]
    assert letter["payload"] == "broken {"

    body = {"stream": STREAM, "ids": [letter["id"]]}
    answer = await admin.post("/events/dead-letters/redeliver", json=body)

    assert "demo:gone" in assert_problem(answer, status=409)["detail"]
    assert await bus.length(STREAM + transport.DEAD) == 1


@pytest.mark.parametrize("verb", ["redeliver", "drop"])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}])
async def test_what_was_asked_is_in_the_audit_log_although_redis_refuses(
    db: Database, database_url: str, verb: str, headers: dict[str, str]
) -> None:
    settings = settings_of(database_url)  # where no Redis listens
    _, key = await make_agent(db, settings, "admin")
    body = {"stream": STREAM, "ids": ["1-0"]}
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        answer = await client.post(f"/events/dead-letters/{verb}", json=body, headers=headers)

    assert_problem(answer, status=503)
    assert await asked(db) == [(f"dead_letters.{verb}", STREAM, {"ids": ["1-0"]})]


async def test_no_dead_letter_is_touched_before_that_is_in_the_audit_log(
    db: Database, bus: Bus, admin: httpx2.AsyncClient
) -> None:
    await bus.put(Entry(STREAM + transport.DEAD, {"id": "1", "group": "demo:one"}))
    [letter] = await subscribers.letters(bus, STREAM, before=None, limit=10)

    async def waits() -> bool:
        query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(await rows(db, query))

    async with asyncio.TaskGroup() as group, db.transaction() as tx:
        await tx.execute("LOCK TABLE audit_log IN EXCLUSIVE MODE")
        dropping = group.create_task(
            act(admin, "/events/dead-letters/drop", stream=STREAM, ids=[letter.id])
        )
        await until(waits, what="the entry waits for the table")
        assert await bus.length(STREAM + transport.DEAD) == 1

    assert dropping.result() == {"count": 1}
    assert [action for action, *_ in await asked(db)] == ["dead_letters.drop"]


async def test_other_keys_of_redis_are_nobodys_dead_letters(
    bus: Bus, admin: httpx2.AsyncClient
) -> None:
    for stream in ("secrets", "ordinaut:relay", "ordinaut:extra"):
        answer = await admin.get("/events/dead-letters", params={"stream": stream})
        assert assert_problem(answer, status=422)["errors"][0]["path"] == "stream"
    for ids in ([], ["0"], ["1-0; FLUSHALL"], 7):
        body = {"stream": STREAM, "ids": ids}
        assert (await admin.post("/events/dead-letters/drop", json=body)).status_code == 422


async def test_only_administrators_touch_dead_letters(
    db: Database, database_url: str, redis_url: str
) -> None:
    settings = settings_of(database_url, redis_url)
    async with started(settings, TravelClock(NOW)) as app:
        for scopes, read, write in ((("system:read",), 200, 403), (("events:read",), 403, 403)):
            _, key = await make_agent(db, settings, *scopes)
            async with client_to(app, key) as client:
                assert (await client.get("/events/subscribers")).status_code == read
                answer = await client.get("/events/dead-letters")
                assert answer.status_code == read
                body = {"stream": STREAM, "ids": ["1-0"]}
                for verb in ("redeliver", "drop"):
                    there = f"/events/dead-letters/{verb}"
                    assert (await client.post(there, json=body)).status_code == write


async def test_groups_are_in_the_metrics(bus: Bus, admin: httpx2.AsyncClient) -> None:
    one = await ears(bus, "demo:one")
    one.poison = {1}
    await put(bus, 1)
    await one.run()
    await put(bus, 2, 3)

    text = (await admin.get("/ext/observability/metrics")).text

    labels = f'group="demo:one",stream="{STREAM}"'
    assert f"ordinaut_group_lag{{{labels}}} 2.0" in text
    assert f"ordinaut_group_pending{{{labels}}} 0.0" in text
    assert f"ordinaut_group_dead_consumers{{{labels}}} 0.0" in text
    assert f'ordinaut_dead_letters{{stream="{STREAM}"}} 1.0' in text


async def test_a_redis_that_is_away_is_said(db: Database, database_url: str) -> None:
    settings = settings_of(database_url)
    _, key = await make_agent(db, settings, "admin")
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        assert_problem(await client.get("/events/subscribers"), status=503)
        assert "ordinaut_queue_depth" in (await client.get("/ext/observability/metrics")).text
