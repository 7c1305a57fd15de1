"""Webhooks over HTTP: whose they are, what is refused, what is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from calling import AgentOf, act, assert_problem, rows, settings_of
from ordinaut.config import Settings
from ordinaut.guard import Policy
from ordinaut.scheduler.sender import Sender
from ordinaut.scheduler.webhooks import Webhooks
from ordinaut.store.database import Database
from ordinaut.store.secrets import keyring
from receiving import Receiver, receiving, verify

NETWORKS = ("127.0.0.0/8",)
BOTH = ("webhooks:read", "webhooks:write")


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings that let webhooks reach this machine."""
    return settings_of(database_url).model_copy(update={"webhook_allow_networks": NETWORKS})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


async def deliver(db: Database, settings: Settings) -> None:
    """Do what a scheduler does until nothing is left that is due."""
    while await Webhooks(db).run_once():
        pass
    policy = Policy.of_webhooks(settings.webhook_allow_networks)
    async with Sender(db, keyring(settings), policy) as sender:
        while await sender.run_once():
            await sender.idle()


async def hook(client: httpx2.AsyncClient, url: str, **fields: Any) -> dict[str, Any]:
    body = {"url": url, "topics": ["order.*"], **fields}
    made: dict[str, Any] = await act(client, "/webhooks", 201, **body)
    return made


async def test_a_webhook_is_made_shown_changed_and_removed(
    agent: AgentOf, receiver: Receiver, db: Database
) -> None:
    me = await agent(*BOTH)

    made = await hook(me.client, receiver.url, filter="payload.total > `1`", description="mine")
    secret = made.pop("signing_secret")
    address = f"/webhooks/{made['id']}"
    shown = (await me.client.get(address)).json()
    patch = {"topics": ["order.paid"], "filter": None, "status": "paused"}
    changed = (await me.client.patch(address, json=patch)).json()
    listed = (await me.client.get("/webhooks")).json()["items"]

    assert secret.startswith("whsec_")
    assert shown == made
    assert (made["status"], made["reason"], made["created_by"]) == ("active", "", me.id)
    assert changed == made | patch | {"updated_at": changed["updated_at"]}
    assert listed == [changed]
    assert (await me.client.delete(address)).status_code == 204
    assert_problem(await me.client.get(address), status=404)
    logged = await rows(db, "SELECT action, before, after, audit_log::text FROM audit_log")
    assert [entry[0] for entry in logged] == ["webhook.create", "webhook.update", "webhook.delete"]
    assert logged[1][2]["status"] == "paused"
    assert not any(secret in text for *_, text in logged)


async def test_an_event_is_delivered_and_can_be_delivered_again(
    agent: AgentOf, receiver: Receiver, db: Database, settings: Settings
) -> None:
    me = await agent(*BOTH, "events:publish")
    made = await hook(me.client, receiver.url)
    event = await act(me.client, "/events", 202, topic="order.paid", payload={"total": 9})

    await deliver(db, settings)
    address = f"/webhooks/{made['id']}/deliveries"
    [delivery] = (await me.client.get(address)).json()["items"]
    again = await act(me.client, f"{address}/{delivery['id']}/redeliver", 202)
    await deliver(db, settings)

    first, second = receiver.messages
    assert first.id == second.id == delivery["id"]
    assert first.body == second.body
    said = verify(made["signing_secret"], second.headers, second.body, now=datetime.now(UTC))
    assert (said["id"], said["data"]) == (event["id"], {"total": 9})
    assert (delivery["event_id"], delivery["topic"]) == (event["id"], "order.paid")
    assert (delivery["status"], delivery["attempts"], delivery["response_status"]) == (
        "delivered", 1, 204)  # fmt: skip
    assert delivery["next_attempt_at"] is None
    assert (again["status"], again["attempts"]) == ("pending", 0)
    dead = await me.client.get(address, params={"status": "dead"})
    assert dead.json()["items"] == []


async def test_a_test_is_delivered_to_this_webhook_alone(
    agent: AgentOf, receiver: Receiver, db: Database, settings: Settings
) -> None:
    me = await agent(*BOTH)
    made = await hook(me.client, receiver.url)
    await hook(me.client, f"{receiver.url}/other", topics=["*.*"])

    delivery = await act(me.client, f"/webhooks/{made['id']}/test", 202)
    await deliver(db, settings)

    [message] = receiver.messages
    assert (message.id, message.path) == (delivery["id"], "/")
    assert message.said["type"] == "webhook.test"
    assert message.said["data"] == {"webhook_id": made["id"]}
    assert delivery["event_id"] is None


async def test_a_secret_is_replaced_and_shown_this_once(
    agent: AgentOf, receiver: Receiver, db: Database, settings: Settings
) -> None:
    me = await agent(*BOTH)
    made = await hook(me.client, receiver.url)
    rotated = await act(me.client, f"/webhooks/{made['id']}/rotate_secret")
    await act(me.client, f"/webhooks/{made['id']}/test", 202)
    await deliver(db, settings)
    at_once = await act(me.client, f"/webhooks/{made['id']}/rotate_secret", overlap_seconds=0)
    await act(me.client, f"/webhooks/{made['id']}/test", 202)
    await deliver(db, settings)

    secrets = [one["signing_secret"] for one in (made, rotated, at_once)]
    assert len(set(secrets)) == 3
    during, after = receiver.messages
    for secret in secrets[:2]:
        verify(secret, during.headers, during.body, now=datetime.now(UTC))
    assert len(after.headers["webhook-signature"].split(" ")) == 1
    verify(secrets[2], after.headers, after.body, now=datetime.now(UTC))
    for address in (f"/webhooks/{made['id']}", "/webhooks"):
        assert "whsec_" not in (await me.client.get(address)).text


async def test_a_repeated_request_does_not_show_the_secret_again(
    agent: AgentOf, receiver: Receiver, db: Database
) -> None:
    me = await agent(*BOTH)
    body = {"url": receiver.url, "topics": ["order.*"]}
    headers = {"Idempotency-Key": "one"}

    first = await me.client.post("/webhooks", json=body, headers=headers)
    second = await me.client.post("/webhooks", json=body, headers=headers)

    assert first.json()["signing_secret"].startswith("whsec_")
    assert second.json() == first.json() | {"signing_secret": None}
    kept = await rows(db, "SELECT convert_from(body, 'UTF8') FROM idempotency")
    assert "whsec_" not in kept[0][0]


async def test_webhooks_belong_to_their_agent(agent: AgentOf, receiver: Receiver) -> None:
    mine, other = await agent(*BOTH), await agent(*BOTH)
    admin = await agent("webhooks:read:all", "webhooks:write:all")
    made = await hook(mine.client, receiver.url)
    delivery = await act(mine.client, f"/webhooks/{made['id']}/test", 202)
    address = f"/webhooks/{made['id']}"

    assert (await other.client.get("/webhooks")).json()["items"] == []
    for answer in (
        await other.client.get(address),
        await other.client.patch(address, json={"status": "paused"}),
        await other.client.delete(address),
        await other.client.post(f"{address}/test"),
        await other.client.post(f"{address}/rotate_secret"),
        await other.client.get(f"{address}/deliveries"),
        await other.client.post(f"{address}/deliveries/{delivery['id']}/redeliver"),
    ):
        assert_problem(answer, status=404)
    assert [one["id"] for one in (await admin.client.get("/webhooks")).json()["items"]] == [
        made["id"]
    ]
    paused = await admin.client.patch(address, json={"status": "paused"})
    assert paused.json()["created_by"] == mine.id


async def test_a_delivery_of_another_webhook_is_not_found(
    agent: AgentOf, receiver: Receiver
) -> None:
    mine, other = await agent(*BOTH), await agent(*BOTH)
    made, others = await hook(mine.client, receiver.url), await hook(other.client, receiver.url)
    delivery = await act(mine.client, f"/webhooks/{made['id']}/test", 202)

    answer = await other.client.post(
        f"/webhooks/{others['id']}/deliveries/{delivery['id']}/redeliver"
    )

    assert_problem(answer, status=404)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("url", {"url": "ftp://127.0.0.1/"}),
        ("url", {"url": "//127.0.0.1/"}),
        ("url", {"url": "http://"}),
        ("url", {"url": "http://me:pass@127.0.0.1/"}),
        ("url", {"url": "http://127.0.0.1/#a"}),
        ("url", {"url": "http://127.0.0.1/a b"}),
        ("url", {"url": "http://127.0.0.1/\u0001"}),
        ("url", {"url": "http://127.0.0.1:99999/"}),
        ("url", {"url": "http://no-such-name.invalid/"}),
        ("url", {"url": "http://10.0.0.1/"}),
        ("topics", {"topics": []}),
        ("topics", {"topics": ["webhook.*"]}),
        ("topics[0]", {"topics": ["order..paid"]}),
        ("topics[0]", {"topics": ["order paid"]}),
        ("filter", {"filter": "payload.["}),
        ("filter", {"filter": ""}),
    ],
    ids=str,
)
async def test_what_can_not_be_used_is_refused_with_its_place(
    agent: AgentOf, field: str, body: dict[str, Any]
) -> None:
    me = await agent(*BOTH)

    answer = await me.client.post(
        "/webhooks", json={"url": "http://127.0.0.1/", "topics": ["order.*"], **body}
    )

    [error] = assert_problem(answer, status=422)["errors"]
    assert error["path"] == field
    assert (await me.client.get("/webhooks")).json()["items"] == []


async def test_a_webhook_that_is_paused_hears_nothing_and_is_not_tested(
    agent: AgentOf, receiver: Receiver, db: Database, settings: Settings
) -> None:
    me = await agent(*BOTH, "events:publish")
    made = await hook(me.client, receiver.url)
    address = f"/webhooks/{made['id']}"
    await act(me.client, "/events", 202, topic="order.paid", payload="paused before it was read")
    await me.client.patch(address, json={"status": "paused"})
    assert_problem(await me.client.post(f"{address}/test"), status=409, code="conflict")
    await deliver(db, settings)
    await me.client.patch(address, json={"status": "active"})
    await act(me.client, "/events", 202, topic="order.paid", payload="after")

    await deliver(db, settings)

    assert [m.said["data"] for m in receiver.messages] == ["after"]


async def test_a_disabled_webhook_says_why_and_can_be_made_active_again(
    agent: AgentOf, receiver: Receiver, db: Database, settings: Settings
) -> None:
    me = await agent(*BOTH, "events:read", "tasks:read")
    made = await hook(me.client, receiver.url)
    address = f"/webhooks/{made['id']}"
    receiver.answer = lambda _: 410
    delivery = await act(me.client, f"{address}/test", 202)
    await deliver(db, settings)

    gone = (await me.client.get(address)).json()
    described = (await me.client.patch(address, json={"description": "x"})).json()
    refused = await me.client.post(f"{address}/deliveries/{delivery['id']}/redeliver")
    [event] = (await me.client.get("/events?topic=webhook.*")).json()["items"]
    stranger = await agent("events:read")
    unseen = (await stranger.client.get("/events?topic=webhook.*")).json()["items"]
    active = (await me.client.patch(address, json={"status": "active"})).json()
    receiver.answer = lambda _: 200
    await act(me.client, f"{address}/deliveries/{delivery['id']}/redeliver", 202)
    await deliver(db, settings)

    assert (gone["status"], gone["reason"]) == ("disabled", "gone: the address answered 410")
    assert described["reason"] == gone["reason"]
    assert_problem(refused, status=409, code="conflict")
    assert (event["topic"], event["subject"]) == ("webhook.disabled", made["id"])
    assert unseen == []
    assert (active["status"], active["reason"], active["failing_since"]) == ("active", "", None)
    [now] = (await me.client.get(f"{address}/deliveries")).json()["items"]
    assert (now["status"], now["error"]) == ("delivered", "")


async def test_an_agent_has_fifty_webhooks_at_most(agent: AgentOf, receiver: Receiver) -> None:
    me = await agent(*BOTH)
    for _ in range(50):
        await hook(me.client, receiver.url)

    answer = await me.client.post("/webhooks", json={"url": receiver.url, "topics": ["a"]})

    assert_problem(answer, status=429, code="too_many_requests")
