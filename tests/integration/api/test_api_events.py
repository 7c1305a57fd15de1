"""Events and calendars over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from calling import (
    NOW,
    AgentOf,
    act,
    assert_problem,
    create,
    make_agent,
    rows,
    settings_of,
    started,
)
from ordinaut.api.dependencies import Work
from ordinaut.api.listening import listen, place
from ordinaut.api.schemas.events import EventOut, StreamQuery
from ordinaut.bus import Bus
from ordinaut.clock import SystemClock, TravelClock
from ordinaut.errors import InvalidInput
from ordinaut.model import Agent, uuid7
from ordinaut.scheduler.spine import Relay
from ordinaut.store.audit import SYSTEM
from ordinaut.store.database import Database


async def test_a_published_event_is_stored_and_found(admin: httpx2.AsyncClient) -> None:
    made = await act(admin, "/events", 202, topic="order.paid", payload={"n": 1}, subject="o7")

    assert made.keys() == EventOut.model_fields.keys()
    for query in ({"topic": "order.*"}, {"subject": "o7"}, {"topic": "*.paid"}):
        assert (await admin.get("/events", params=query)).json()["items"] == [made]
    assert (await admin.get("/events", params={"topic": "order"})).json()["items"] == []
    topics = (await admin.get("/events/topics")).json()["items"]
    assert [(t["topic"], t["count"]) for t in topics] == [("order.paid", 1)]


async def test_events_that_belong_to_the_core_can_not_be_published(
    admin: httpx2.AsyncClient,
) -> None:
    for topic in ("run.succeeded", "task.created", "ext.webui.x", "", "a..b", "a b", "*.a", "a."):
        answer = await admin.post("/events", json={"topic": topic})
        assert assert_problem(answer, status=422)["errors"][0]["path"] == "topic"


BATCH = {"events": [{"topic": f"n.{n % 3}", "payload": n, "subject": f"\u0007 {{{n}}}"}
                    for n in range(1_000)]}  # fmt: skip
KEY = {"Idempotency-Key": "batch-7"}


async def test_a_batch_of_events_is_stored_in_its_order(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    answer = await admin.post("/events/batch", json=BATCH)

    made = answer.json()["items"]
    assert (answer.status_code, made[0].keys()) == (202, EventOut.model_fields.keys())
    said = [{name: one[name] for name in ("topic", "payload", "subject")} for one in made]
    assert said == BATCH["events"]
    ids = [int(one["id"]) for one in made]
    assert ids == sorted(set(ids))
    newest = (await admin.get("/events", params={"limit": 1_000})).json()["items"]
    assert newest == made[::-1]
    entries = await rows(db, "SELECT action, entity_id, after FROM audit_log")
    assert entries == [("event.publish", made[0]["id"], {"ids": [one["id"] for one in made]})]


async def test_a_batch_that_is_sent_again_is_published_once(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    first, again = [await admin.post("/events/batch", json=BATCH, headers=KEY) for _ in range(2)]

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert await rows(db, "SELECT count(*) FROM event") == [(1_000,)]


async def test_a_batch_with_one_bad_event_publishes_none(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    body = {"events": [{"topic": "a"}, {"topic": "b"}, {"topic": "c", "x": 1}, {"topic": "run.x"}]}

    problem = assert_problem(await admin.post("/events/batch", json=body), status=422)

    assert [error["path"] for error in problem["errors"]] == ["events[2].x", "events[3].topic"]
    assert await rows(db, "SELECT count(*) FROM event") == [(0,)]
    assert await rows(db, "SELECT count(*) FROM audit_log") == [(0,)]


async def test_topics_say_who_listens_as_far_as_the_agent_may_see(
    agent: AgentOf, admin: httpx2.AsyncClient
) -> None:
    ann = await agent("tasks:write", "webhooks:write", "events:publish", "events:read")
    for expr in ("order.*", "order.paid payload.n > `3`", "order.*.late", "*"):
        await create(ann.client, schedule_kind="event", schedule_expr=expr)
    await create(admin, schedule_kind="event", schedule_expr="*.paid")
    paused = await create(admin, schedule_kind="event", schedule_expr="order.paid")
    await act(admin, f"/tasks/{paused['id']}/pause")
    hook = {"url": "https://93.184.216.34/", "topics": ["order.*", "order.paid", "*"]}
    await act(ann.client, "/webhooks", 201, **hook)
    for topic in ("order.paid", "order.paid.late", "order", "other.thing"):
        await act(ann.client, "/events", 202, topic=topic)

    async def told(client: httpx2.AsyncClient) -> dict[str, tuple[int, int]]:
        found = (await client.get("/events/topics")).json()["items"]
        assert {one["groups"] for one in found} == {None}  # there is no Redis here
        return {one["topic"]: (one["tasks"], one["webhooks"]) for one in found
                if one["topic"].startswith("o")}  # fmt: skip

    mine = {"order": (1, 1), "order.paid": (2, 1), "order.paid.late": (1, 0), "other.thing": (0, 0)}
    assert await told(ann.client) == mine
    assert await told(admin) == mine | {"order.paid": (3, 1)}


async def test_events_are_paged(admin: httpx2.AsyncClient) -> None:
    for n in range(5):
        await act(admin, "/events", 202, topic="count", payload=n)
    first = (await admin.get("/events", params={"limit": 3})).json()
    query = {"limit": 3, "cursor": first["next_cursor"]}

    second = (await admin.get("/events", params=query)).json()

    assert [e["payload"] for e in first["items"] + second["items"]] == [4, 3, 2, 1, 0]
    assert second["next_cursor"] is None
    assert (await admin.get("/events", params={"cursor": "x"})).status_code == 422


async def test_an_agent_reads_of_its_own_tasks_and_of_what_was_published(
    agent: AgentOf, admin: httpx2.AsyncClient
) -> None:
    ann = await agent("tasks:write", "events:read")
    mine, other = await create(ann.client), await create(admin)
    await act(admin, "/events", 202, topic="order.paid")

    def seen(answer: httpx2.Response) -> set[tuple[str, str | None]]:
        return {(e["topic"], e["task_id"]) for e in answer.json()["items"]}

    expected = {("task.created", mine["id"]), ("order.paid", None)}
    assert seen(await ann.client.get("/events")) == expected
    assert seen(await admin.get("/events")) == expected | {("task.created", other["id"])}
    topics = (await ann.client.get("/events/topics")).json()["items"]
    assert {t["topic"]: t["count"] for t in topics} == {"order.paid": 1, "task.created": 1}


@pytest.fixture
async def work(db: Database, database_url: str, redis_url: str) -> AsyncIterator[Work]:
    """The work of an administrator on an API with a real Redis."""
    async with started(settings_of(database_url, redis_url), TravelClock(NOW)) as app:
        boss = Agent(uuid7(), "boss", frozenset({"admin"}))
        yield Work(app.state.services, boss, SYSTEM, None)


async def relay(db: Database, redis_url: str) -> None:
    """Bring the outbox to Redis."""
    async with Bus(redis_url) as bus:
        relaying = Relay(db, bus, SystemClock())
        while await relaying.run_once():
            pass


async def received(work: Work, query: StreamQuery, *, after: str, count: int) -> list[Any]:
    """Return the first events that a listener gets."""
    found = []
    async with asyncio.timeout(10):
        async for sent in listen(work, query, after=after):
            found.append(sent)
            if len(found) == count:
                return found
    raise AssertionError("the stream ended")


async def publish(db: Database, *topics: str) -> None:
    """State facts."""
    async with db.transaction() as tx:
        for topic in topics:
            await tx.execute(
                "INSERT INTO event (topic, data) VALUES (%s, %s)", [topic, json.dumps({"t": topic})]
            )


async def test_a_listener_gets_what_it_asked_for_and_goes_on_where_it_left_off(
    work: Work, db: Database, redis_url: str
) -> None:
    await publish(db, "a.1", "b.1", "a.2")
    await relay(db, redis_url)
    query = StreamQuery(topic="a.*")

    first, second = await received(work, query, after="0-0", count=2)

    assert [first["event"], second["event"]] == ["a.1", "a.2"]
    assert json.loads(first["data"])["payload"] == {"t": "a.1"}
    again = await received(work, query, after=place(first["id"]), count=1)
    assert again == [second]


async def test_a_listener_gets_nothing_of_the_tasks_of_others(
    work: Work, db: Database, database_url: str, redis_url: str
) -> None:
    settings = settings_of(database_url, redis_url)
    ann, _ = await make_agent(db, settings, "events:read")
    async with db.transaction() as tx:
        for owner, title in ((ann, "mine"), (None, "other")):
            await tx.execute(
                "WITH who AS (SELECT coalesce(%s::uuid, (SELECT id FROM agent LIMIT 1)) AS id)"
                " INSERT INTO event (topic, task_id, data) VALUES ('task.created', %s, %s)",
                [owner, uuid7(), json.dumps({"title": title})],
            )
    await publish(db, "worker.lost", "order.paid")
    await relay(db, redis_url)
    mine = Work(work.parts, work.agent, SYSTEM, uuid7())

    [only] = await received(mine, StreamQuery(), after="0-0", count=1)

    assert only["event"] == "order.paid"


def test_a_place_in_the_stream_must_be_one() -> None:
    assert (place(None), place("1700000000000-0")) == ("$", "1700000000000-0")
    for junk in ("", "0", "$", "x-1", "1-1\n", "9" * 21 + "-0", f"{1 << 64}-0", "١-١"):
        with pytest.raises(InvalidInput):
            place(junk)


async def test_a_calendar_keeps_a_task_from_running_and_its_change_moves_the_task(
    admin: httpx2.AsyncClient,
) -> None:
    tomorrow = {"dates": ["2026-11-24"]}
    await act(admin, "/calendars", 201, name="closed", definition=tomorrow)
    task = await create(admin, exclude=["closed"])
    assert task["next_run_at"] == "2026-11-25T09:00:00Z"

    answer = await admin.put("/calendars/closed", json={"definition": {"dates": ["2026-11-25"]}})

    assert (answer.json()["version"], answer.status_code) == (2, 200)
    moved = (await admin.get(f"/tasks/{task['id']}")).json()
    assert moved["next_run_at"] == "2026-11-24T09:00:00Z"


async def test_a_calendar_in_use_stays_and_one_that_is_not_goes(
    admin: httpx2.AsyncClient,
) -> None:
    await act(admin, "/calendars", 201, name="closed", definition={"weekdays": ["SA", "SU"]})
    task = await create(admin, exclude=["closed"])

    assert_problem(await admin.delete("/calendars/closed"), status=409)
    await admin.delete(f"/tasks/{task['id']}")
    assert (await admin.delete("/calendars/closed")).status_code == 204
    assert (await admin.get("/calendars/closed")).status_code == 404


async def test_calendars_that_make_no_sense_are_refused(admin: httpx2.AsyncClient) -> None:
    await act(admin, "/calendars", 201, name="closed", definition={"dates": []})
    for body, status, path in (
        ({"name": "x", "definition": {"dates": ["2026-02-30"]}}, 422, "definition.dates[0]"),
        ({"name": "x", "definition": {"days": []}}, 422, "definition.days"),
        ({"name": "x", "definition": []}, 422, "definition"),
        ({"name": "a/b", "definition": {}}, 422, "name"),
        ({"name": "closed", "definition": {"dates": []}}, 409, None),
    ):
        problem = assert_problem(await admin.post("/calendars", json=body), status=status)
        assert path is None or problem["errors"][0]["path"] == path


async def test_calendars_of_others_can_be_read_and_not_changed(
    admin: httpx2.AsyncClient, agent: AgentOf
) -> None:
    await act(admin, "/calendars", 201, name="closed", definition={"dates": []})
    ann = await agent("tasks:read", "tasks:write")

    assert (await ann.client.get("/calendars/closed")).status_code == 200
    body = {"definition": {"dates": ["2026-12-24"]}}
    assert (await ann.client.put("/calendars/closed", json=body)).status_code == 404
    assert (await ann.client.delete("/calendars/closed")).status_code == 404


async def test_pages_of_calendars_follow_each_other(admin: httpx2.AsyncClient) -> None:
    for name in "abc":
        await act(admin, "/calendars", 201, name=name, definition={"dates": []})
    first = (await admin.get("/calendars", params={"limit": 2})).json()
    query = {"cursor": first["next_cursor"]}
    rest = (await admin.get("/calendars", params=query)).json()

    assert [c["name"] for c in first["items"] + rest["items"]] == ["c", "b", "a"]
