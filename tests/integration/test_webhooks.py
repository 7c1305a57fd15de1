"""Webhooks from the outbox to the receiver: nothing lost, nobody told what is not for him."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest

from ordinaut.engine.webhooks import SCHEDULE
from ordinaut.guard import Policy
from ordinaut.model import Event, Json, uuid7
from ordinaut.scheduler import webhooks as reading
from ordinaut.scheduler.sender import LEASE, PATIENCE, ROOM, SHARE, Sender
from ordinaut.scheduler.webhooks import Webhooks
from ordinaut.store import deliveries, journal, topics, webhooks
from ordinaut.store.database import Database
from ordinaut.store.secrets import Keyring
from queueing import make_task, rows
from receiving import Receiver, Refused, receiving, verify

DATA = Path(__file__).parents[1] / "data"
MESSAGES = json.loads((DATA / "webhook_messages.json").read_text())
INWARD = [case for case in json.loads((DATA / "abuse.json").read_text()) if case["group"] == "ssrf"]
KEYS = Keyring({"test": b"k" * 32})
LOOPBACK = Policy.of_webhooks(["127.0.0.0/8"])
NOW = datetime.now(UTC)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


async def agent(db: Database, *scopes: str) -> UUID:
    agent_id = uuid7()
    async with db.transaction() as tx:
        await tx.execute(
            "INSERT INTO agent (id, name, scopes) VALUES (%s, %s, %s)",
            (agent_id, str(agent_id), list(scopes)),
        )
    return agent_id


async def hook(
    db: Database, url: str, *topics: str, owner: UUID | None = None, filter: str | None = None
) -> tuple[UUID, str]:
    """Store a webhook and return its id and secret."""
    owner = owner or await agent(db)
    async with db.transaction() as tx:
        made = await webhooks.create(
            tx, url=url, topics=topics, filter=filter, description="", owner=owner, now=NOW
        )
        secret = await webhooks.new_secret(tx, made.id, keys=KEYS, overlap=timedelta(0))
    return made.id, secret


async def publish(db: Database, topic: str, data: Json = None, **ids: Any) -> None:
    async with db.transaction() as tx:
        await journal.emit(tx, [Event(topic, {} if data is None else data, **ids)])


async def queue_all(db: Database) -> None:
    """Do what schedulers do with the outbox, until nothing is left."""
    while await Webhooks(db).run_once():
        pass


@asynccontextmanager
async def sending(db: Database, **options: Any) -> AsyncIterator[Sender]:
    async with Sender(db, KEYS, options.pop("policy", LOOPBACK), **options) as sender:
        yield sender


async def send(db: Database, *, now: datetime | None = None, **options: Any) -> None:
    """Attempt what is due at this instant, once each."""
    async with sending(db, **options) as sender:
        while await sender.run_once(now=now):
            await sender.idle()


async def status_of(db: Database) -> list[tuple[Any, ...]]:
    return await rows(
        db, "SELECT status, attempts, response_status, error FROM webhook_delivery ORDER BY id"
    )


async def queued(db: Database) -> list[tuple[UUID, str]]:
    return await rows(db, "SELECT webhook_id, topic FROM webhook_delivery ORDER BY id")


# --- What is delivered ----------------------------------------------------------------------


async def test_an_event_arrives_signed_as_a_cloud_event(db: Database, receiver: Receiver) -> None:
    _, secret = await hook(db, f"{receiver.url}/in", "order.*")
    await publish(db, "order.paid", {"total": 9, "text": 'ä "\n'}, subject="order 7")
    await publish(db, "order.paid.twice")

    await queue_all(db)
    await send(db)

    [message] = receiver.messages
    said = verify(secret, message.headers, message.body, now=datetime.now(UTC))
    [(seq, at)] = await rows(db, "SELECT seq, occurred_at FROM fact WHERE subject = 'order 7'")
    assert said == {
        "specversion": "1.0",
        "id": str(seq),
        "source": "/ordinaut",
        "type": "order.paid",
        "subject": "order 7",
        "time": at.astimezone(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": {"total": 9, "text": 'ä "\n'},
    }
    assert message.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert await rows(db, "SELECT id::text FROM webhook_delivery") == [(message.id,)]
    assert await status_of(db) == [("delivered", 1, 204, "")]


async def test_each_event_reaches_each_webhook_once_by_however_many_topics_and_readers(
    db: Database, receiver: Receiver
) -> None:
    first, _ = await hook(db, receiver.url, "order.*", "order.paid", "*.paid")
    second, _ = await hook(db, receiver.url, "order.paid")
    for number in range(30):
        await publish(db, "order.paid", number)

    await asyncio.gather(*(queue_all(db) for _ in range(4)))
    await asyncio.gather(*(send(db) for _ in range(3)))

    heard = sorted((m.id, m.said["data"]) for m in receiver.messages)
    assert len({id for id, _ in heard}) == len(heard) == 60
    assert sorted(data for _, data in heard) == sorted([*range(30)] * 2)
    assert {w for w, _ in await queued(db)} == {first, second}


async def test_a_filter_asks_about_the_event(db: Database, receiver: Receiver) -> None:
    await hook(db, receiver.url, "order.paid", filter="payload.total > `10`")
    await hook(db, receiver.url, "order.paid", filter="length(payload.total) > `1`")

    for total in (5, 20):
        await publish(db, "order.paid", {"total": total})
    await queue_all(db)
    await send(db)

    assert [m.said["data"] for m in receiver.messages] == [{"total": 20}]


async def test_what_the_core_says_about_a_task_is_told_to_its_owner_alone(
    db: Database, receiver: Receiver
) -> None:
    owner = await agent(db)
    task_id = await make_task(db, created_by=owner)
    own, _ = await hook(db, receiver.url, "run.*", owner=owner)
    await hook(db, receiver.url, "run.*", "*.*")
    everything, _ = await hook(db, receiver.url, "run.*", owner=await agent(db, "events:read:all"))

    await publish(db, "run.succeeded", task_id=task_id)
    await queue_all(db)

    assert {webhook for webhook, _ in await queued(db)} == {own, everything}


async def test_what_is_said_about_webhooks_is_told_to_none(
    db: Database, receiver: Receiver
) -> None:
    owner = await agent(db, "admin")
    await hook(db, receiver.url, "*.*", "webhook.*", owner=owner)

    await publish(db, "webhook.disabled", {"agent_id": str(owner)})
    await queue_all(db)

    assert await queued(db) == []


async def test_a_webhook_hears_nothing_from_before_its_creation_or_while_its_agent_is_disabled(
    db: Database, receiver: Receiver
) -> None:
    await publish(db, "order.paid", "before")
    owner = await agent(db)
    await hook(db, receiver.url, "order.paid", owner=owner)
    await publish(db, "order.paid", "heard")
    await queue_all(db)
    async with db.connection() as tx:
        await tx.execute("UPDATE agent SET status = 'disabled' WHERE id = %s", (owner,))
    await publish(db, "order.paid", "not heard")
    await queue_all(db)

    await send(db)
    assert receiver.messages == []
    async with db.connection() as tx:
        await tx.execute("UPDATE agent SET status = 'active' WHERE id = %s", (owner,))
    await send(db)

    assert [m.said["data"] for m in receiver.messages] == ["heard"]


async def test_a_transaction_that_commits_late_is_delivered(
    db: Database, receiver: Receiver
) -> None:
    await hook(db, receiver.url, "order.*")
    async with db.transaction() as tx:
        await journal.emit(tx, [Event("order.late", {})])
        await publish(db, "order.early")
        await queue_all(db)

    await queue_all(db)

    assert [topic for _, topic in await queued(db)] == ["order.early", "order.late"]


async def test_a_reader_that_dies_before_its_commit_loses_and_doubles_nothing(
    db: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hook(db, receiver.url, "order.paid")
    await publish(db, "order.paid")

    with monkeypatch.context() as broken:
        broken.setattr(reading.triggers, "move_place", _die)
        with pytest.raises(ConnectionError):
            await Webhooks(db).run_once()
    assert await queued(db) == []

    await queue_all(db)
    await queue_all(db)

    assert len(await queued(db)) == 1


async def _die(*_: object, **__: object) -> None:
    raise ConnectionError("the scheduler died")


# --- When it fails --------------------------------------------------------------------------


async def test_failed_attempts_follow_the_schedule_and_the_last_is_a_dead_letter(
    db: Database, receiver: Receiver
) -> None:
    _, secret = await hook(db, receiver.url, "order.paid")
    receiver.answer = lambda _: 500
    await publish(db, "order.paid")
    await queue_all(db)

    now, pauses = datetime.now(UTC) + timedelta(seconds=1), []
    for count in range(1, len(SCHEDULE) + 2):
        await send(db, now=now)
        assert len(receiver.messages) == count
        [(status, at)] = await rows(db, "SELECT status, next_attempt_at FROM webhook_delivery")
        if status == "dead":
            break
        await send(db, now=at - timedelta(milliseconds=1))
        assert len(receiver.messages) == count  # not before its time
        pauses.append(at - now)
        now = at
    await send(db, now=now + timedelta(days=30))

    assert len(receiver.messages) == 10
    for pause, wanted in zip(pauses, SCHEDULE, strict=True):
        assert wanted <= pause <= wanted * 1.2
    assert await status_of(db) == [("dead", 10, 500, "the answer was 500")]
    assert len({m.id for m in receiver.messages}) == 1
    stamps = [int(m.headers["webhook-timestamp"]) for m in receiver.messages]
    assert stamps == sorted(set(stamps))  # each attempt is signed anew
    last = receiver.messages[-1]
    with pytest.raises(Refused, match="timestamp"):
        verify(secret, last.headers, last.body, now=now + timedelta(minutes=6))
    with pytest.raises(Refused, match="signature"):
        verify(secret, last.headers, last.body + b" ", now=now)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (404, "the answer was 404"),
        ("302 Found\r\nlocation: /elsewhere", "the answer was 302; redirects are not followed"),
        ("junk", "…"),
    ],
)
async def test_other_answers_are_failures_and_nothing_is_followed(
    db: Database, receiver: Receiver, answer: int | str, error: str
) -> None:
    await hook(db, receiver.url, "order.paid")
    receiver.answer = lambda _: answer
    await publish(db, "order.paid")
    await queue_all(db)

    await send(db)

    [(status, attempts, _, said)] = await status_of(db)
    assert (status, attempts) == ("pending", 1)
    assert said == error or error == "…"
    assert len(receiver.messages) == 1


async def test_an_address_that_is_gone_ends_the_webhook(db: Database, receiver: Receiver) -> None:
    owner = await agent(db)
    webhook_id, _ = await hook(db, receiver.url, "order.paid", owner=owner)
    receiver.answer = lambda _: 410
    for _ in range(7):
        await publish(db, "order.paid")
    await queue_all(db)

    await send(db)

    [(status, reason)] = await rows(db, "SELECT status, reason FROM webhook")
    assert (status, reason) == ("disabled", "gone: the address answered 410")
    assert {status for status, *_ in await status_of(db)} == {"dead"}
    assert len(receiver.messages) <= SHARE
    events = await rows(db, "SELECT subject, data FROM fact WHERE topic = 'webhook.disabled'")
    assert events == [
        (
            str(webhook_id),
            {"webhook_id": str(webhook_id), "agent_id": str(owner), "reason": reason},
        )
    ]
    schema = topics.catalogue()["webhook.disabled"].schema
    assert jsonschema_rs.is_valid(schema, events[0][1], validate_formats=True)
    assert await rows(db, "SELECT actor, action FROM audit_log") == [("system", "webhook.disable")]


async def test_what_an_old_address_says_does_not_end_the_webhook(
    db: Database, receiver: Receiver
) -> None:
    await hook(db, "https://old.example.com/", "order.paid")
    await publish(db, "order.paid")
    await queue_all(db)
    async with db.transaction() as tx:
        [held] = await deliveries.claim(tx, limit=1, share=1, busy={}, lease=timedelta(minutes=1))
    await rows(db, "UPDATE webhook SET url = %s RETURNING id", receiver.url)

    async with db.transaction() as tx:
        said = deliveries.Attempted(held, "dead", deliveries.GONE, "the address is gone (410)")
        assert await deliveries.settle(tx, [said], patience=timedelta(days=5)) == []

    assert await rows(db, "SELECT status FROM webhook") == [("active",)]
    await send(db, now=held.now + timedelta(minutes=2))
    assert [status for status, *_ in await status_of(db)] == ["delivered"]
    assert len(receiver.messages) == 1


async def test_a_webhook_that_fails_for_five_days_is_disabled(
    db: Database, receiver: Receiver
) -> None:
    await hook(db, receiver.url, "order.paid")
    receiver.answer = lambda _: 503
    start = datetime.now(UTC) + timedelta(seconds=1)

    async def fail(after: timedelta) -> str:
        await publish(db, "order.paid")
        await queue_all(db)
        await send(db, now=start + after)
        [(status,)] = await rows(db, "SELECT status FROM webhook")
        return str(status)

    assert await fail(timedelta(0)) == "active"
    assert await fail(PATIENCE - timedelta(seconds=1)) == "active"
    receiver.answer = lambda _: 200
    assert await fail(PATIENCE - timedelta(seconds=1) + timedelta(hours=1)) == "active"
    receiver.answer = lambda _: 503
    assert await fail(PATIENCE + timedelta(days=1)) == "active"  # it had succeeded in between
    assert await fail(PATIENCE * 2 + timedelta(days=2)) == "disabled"
    [(reason,)] = await rows(db, "SELECT reason FROM webhook")
    assert reason == "failing: no delivery succeeded for 5 days"


async def test_a_receiver_that_does_not_answer_is_left_in_time(
    db: Database, receiver: Receiver
) -> None:
    await hook(db, f"{receiver.url}/slow", "order.paid")
    receiver.hold["/slow"] = asyncio.Event()
    await publish(db, "order.paid")
    await queue_all(db)

    await send(db, timeout=0.3)

    assert await status_of(db) == [("pending", 1, None, "no answer in 0.3 s")]


async def test_slow_receivers_do_not_hold_the_others(db: Database, receiver: Receiver) -> None:
    await hook(db, f"{receiver.url}/slow", "order.paid")
    await hook(db, f"{receiver.url}/fast", "order.lost")
    receiver.hold["/slow"] = asyncio.Event()
    for _ in range(ROOM):
        await publish(db, "order.paid")
    for number in range(40):
        await publish(db, "order.lost", number)
    await queue_all(db)

    woken = asyncio.Event()
    async with sending(db, wake=woken.set) as sender, asyncio.timeout(20):
        while len([m for m in receiver.messages if m.path == "/fast"]) < 40:
            woken.clear()
            if not await sender.run_once():
                await woken.wait()
        assert len([m for m in receiver.messages if m.path == "/slow"]) == SHARE
        receiver.hold["/slow"].set()
        await sender.idle()


# --- Processes that die ---------------------------------------------------------------------


async def test_what_was_delivered_and_not_committed_is_delivered_again_under_the_same_id(
    db: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hook(db, receiver.url, "order.paid")
    await publish(db, "order.paid")
    await queue_all(db)

    with monkeypatch.context() as broken:
        broken.setattr(deliveries, "settle", _die)
        async with sending(db) as sender:
            await sender.run_once()
            await sender.idle()
            with pytest.raises(ConnectionError):
                await sender.run_once()
            sender._ended.clear()  # as the process is gone, so is what it knew
    await send(db)
    assert len(receiver.messages) == 1  # the lease of the dead one holds
    await send(db, now=datetime.now(UTC) + LEASE)

    assert len(receiver.messages) == 2
    assert len({m.id for m in receiver.messages}) == 1
    assert await status_of(db) == [("delivered", 1, 204, "")]


async def test_a_late_result_does_not_count_twice(db: Database, receiver: Receiver) -> None:
    await hook(db, receiver.url, "order.paid")
    await publish(db, "order.paid")
    await queue_all(db)
    receiver.answer = lambda _: 500

    async with sending(db) as frozen:
        await frozen.run_once()
        await frozen.idle()
        receiver.answer = lambda _: 204
        await send(db, now=datetime.now(UTC) + LEASE)
        await frozen.run_once()

    assert await status_of(db) == [("delivered", 1, 204, "")]
    assert await rows(db, "SELECT failing_since FROM webhook") == [(None,)]


async def test_a_sender_that_stops_gives_back_what_is_under_way(
    db: Database, receiver: Receiver
) -> None:
    await hook(db, f"{receiver.url}/slow", "order.paid")
    receiver.hold["/slow"] = asyncio.Event()
    await publish(db, "order.paid")
    await queue_all(db)

    async with sending(db) as sender:
        await sender.run_once()
        await receiver.has(1)
    receiver.hold.pop("/slow").set()
    await send(db)

    assert len(receiver.messages) == 2
    assert await status_of(db) == [("delivered", 1, 204, "")]


# --- Secrets and addresses ------------------------------------------------------------------


async def test_both_secrets_sign_while_one_is_replaced(db: Database, receiver: Receiver) -> None:
    webhook_id, old = await hook(db, receiver.url, "order.paid")
    async with db.transaction() as tx:
        new = await webhooks.new_secret(tx, webhook_id, keys=KEYS, overlap=timedelta(hours=1))
    now = datetime.now(UTC) + timedelta(seconds=1)
    await publish(db, "order.paid")
    await queue_all(db)
    await send(db, now=now)
    await publish(db, "order.paid")
    await queue_all(db)
    await send(db, now=now + timedelta(hours=2))

    during, after = receiver.messages
    assert verify(old, during.headers, during.body, now=now)
    assert verify(new, during.headers, during.body, now=now)
    assert verify(new, after.headers, after.body, now=now + timedelta(hours=2))
    with pytest.raises(Refused, match="signature"):
        verify(old, after.headers, after.body, now=now + timedelta(hours=2))


async def test_a_second_rotation_ends_the_first_secret(db: Database) -> None:
    webhook_id, _ = await hook(db, "http://127.0.0.1/", "order.paid")
    made = []
    for _ in range(2):
        async with db.transaction() as tx:
            made.append(
                await webhooks.new_secret(tx, webhook_id, keys=KEYS, overlap=timedelta(hours=1))
            )

    async with db.connection() as tx:
        sealed = await webhooks.sealed_secrets(tx, [webhook_id])

    assert webhooks.opened(KEYS, webhook_id, sealed[webhook_id]) == made[::-1]


async def test_secrets_are_stored_encrypted_bound_to_their_webhook_and_rotated_with_the_keys(
    db: Database,
) -> None:
    first, secret = await hook(db, "http://127.0.0.1/", "order.paid")
    second, _ = await hook(db, "http://127.0.0.1/", "order.paid")
    both = Keyring({"new": b"n" * 32, "test": b"k" * 32})

    assert await webhooks.rotate(db, both) == 2

    async with db.connection() as tx:
        sealed = await webhooks.sealed_secrets(tx, [first, second])
    only_new = Keyring({"new": b"n" * 32})
    assert webhooks.opened(only_new, first, sealed[first]) == [secret]
    with pytest.raises(Exception, match="does not open"):
        webhooks.opened(only_new, first, sealed[second])
    stored = await rows(db, "SELECT s::text FROM webhook_secret AS s")
    assert not any(secret.removeprefix("whsec_") in text for (text,) in stored)


async def test_an_address_is_checked_with_every_attempt(db: Database, receiver: Receiver) -> None:
    await hook(db, receiver.url, "order.paid")
    await publish(db, "order.paid")
    await queue_all(db)

    await send(db, policy=Policy.of_webhooks([]))

    assert receiver.messages == []
    [(status, attempts, _, error)] = await status_of(db)
    assert (status, attempts) == ("pending", 1)
    assert "127.0.0.1 is a loopback address" in error
    assert "ORDINAUT_WEBHOOK_ALLOW_NETWORKS" in error


async def test_no_spelling_of_an_address_leads_inward_at_delivery(db: Database) -> None:
    async with receiving() as inside:
        port = inside.url.rsplit(":", 1)[1]
        urls = [case["url"] for case in INWARD if "url" in case]
        urls += [url.replace(":1/", f":{port}/") for url in urls if ":1/" in url]
        for url in urls:
            await hook(db, url, "order.paid")
        await publish(db, "order.paid")
        await queue_all(db)

        await send(db, policy=Policy.of_webhooks([]))

        assert inside.messages == []
        found = await status_of(db)
        assert len(found) == len(urls)
        assert {(status, attempts) for status, attempts, *_ in found} == {("pending", 1)}


@pytest.mark.parametrize("case", [c for c in INWARD if "redirect" in c], ids=lambda c: c["case"])
async def test_a_redirect_inward_is_not_followed(
    db: Database, receiver: Receiver, case: dict[str, Any]
) -> None:
    await hook(db, receiver.url, "order.paid")
    receiver.answer = lambda _: f"307 Moved\r\nlocation: {case['redirect']}"
    await publish(db, "order.paid")
    await queue_all(db)

    await send(db)

    assert [one[:3] for one in await status_of(db)] == [("pending", 1, 307)]


@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: case["case"])
async def test_a_receiver_refuses_what_was_replayed_or_changed(
    db: Database, receiver: Receiver, case: dict[str, Any]
) -> None:
    _, secret = await hook(db, receiver.url, "order.paid")
    await publish(db, "order.paid", {"total": 9})
    await queue_all(db)
    await send(db)
    [message] = receiver.messages
    sent = datetime.fromtimestamp(int(message.headers["webhook-timestamp"]), UTC)
    now = sent + timedelta(seconds=case.get("seconds_later", 0))
    digest = message.headers["webhook-signature"].removeprefix("v1,")
    known = {"{now}": str(int(now.timestamp())), "{digest}": digest, "{digest:-1}": digest[:-5]}
    headers = dict(message.headers)
    for name, value in case.get("headers", {}).items():
        for word, meant in known.items():
            value = value.replace(word, meant)
        headers[name] = value
    body = case["body"].encode() if "body" in case else message.body

    if "refused" not in case:
        said = verify(secret, headers, body, now=now)
        assert said["data"] == {"total": 9}
        return
    with pytest.raises(Refused, match=case["refused"]):
        verify(case.get("secret", secret), headers, body, now=now)
