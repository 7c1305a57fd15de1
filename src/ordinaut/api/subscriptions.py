"""What callers do to webhooks, each with its audit entry."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import httpcore2
import httpx2

from ordinaut.api import json
from ordinaut.api.dependencies import Work
from ordinaut.api.schemas.webhooks import Rotation, WebhookIn, WebhookPatch
from ordinaut.engine.template import parse_condition
from ordinaut.errors import Conflict, InvalidInput, ToolError, TooManyRequests
from ordinaut.guard import Policy, resolve
from ordinaut.model import Json
from ordinaut.store import audit, deliveries, webhooks
from ordinaut.store.database import Tx
from ordinaut.store.deliveries import Delivery, NewDelivery
from ordinaut.store.webhooks import Webhook

MOST: Final = 50  # webhooks of an agent: each may hold some of the sender's room
LOOK_UP_SECONDS: Final = 3.0
TEST: Final = "webhook.test"
_PORTS: Final = {"http": 80, "https": 443}


async def create(tx: Tx, work: Work, body: WebhookIn) -> tuple[Webhook, str]:
    """Store a webhook and return it with its secret."""
    if await webhooks.count(tx, work.agent.id) >= MOST:
        raise TooManyRequests(f"an agent may have {MOST} webhooks; delete some", retry_after=60)
    made = await webhooks.create(
        tx,
        url=body.url,
        topics=body.topics,
        filter=body.filter,
        description=body.description,
        owner=work.agent.id,
        now=work.now,
    )
    secret = await webhooks.new_secret(tx, made.id, keys=work.parts.keys, overlap=timedelta(0))
    await _note(tx, work, "create", made.id, after=_shown(made))
    return made, secret


async def change(tx: Tx, work: Work, id: UUID, body: WebhookPatch) -> Webhook:
    """Change the fields that were given."""
    before = await webhooks.get(tx, id, owner=work.owner, lock=True)
    given: dict[str, Any] = body.model_dump(exclude_unset=True)
    after = await webhooks.update(tx, replace(before, **given), now=work.now)
    await _note(tx, work, "update", id, before=_shown(before), after=_shown(after))
    return after


async def delete(tx: Tx, work: Work, id: UUID) -> None:
    """Remove a webhook; what was on its way to it is not delivered any more."""
    before = await webhooks.get(tx, id, owner=work.owner)
    await webhooks.delete(tx, id)
    await _note(tx, work, "delete", id, before=_shown(before))


async def rotate(tx: Tx, work: Work, id: UUID, body: Rotation) -> tuple[Webhook, str]:
    """Give a webhook a new secret and return it; the old one signs as well for a while."""
    webhook = await webhooks.get(tx, id, owner=work.owner, lock=True)
    overlap = timedelta(seconds=body.overlap_seconds)
    secret = await webhooks.new_secret(tx, id, keys=work.parts.keys, overlap=overlap)
    await _note(tx, work, "rotate", id, after={"overlap_seconds": body.overlap_seconds})
    return webhook, secret


async def test(tx: Tx, work: Work, id: UUID) -> Delivery:
    """Put a delivery on its way that says nothing but that it is a test."""
    webhook = await _active(tx, work, id)
    body = {
        "specversion": "1.0",
        "id": f"test-{work.actor.request_id}",
        "source": "/ordinaut",
        "type": TEST,
        "subject": str(webhook.id),
        "time": work.now,
        "datacontenttype": "application/json",
        "data": {"webhook_id": webhook.id},
    }
    new = NewDelivery(webhook.id, TEST, json.dumps(body).decode())
    [made] = await deliveries.add(tx, [new])
    await _note(tx, work, "test", id)
    return await deliveries.get(tx, id, made)


async def redeliver(tx: Tx, work: Work, id: UUID, delivery_id: UUID) -> Delivery:
    """Begin again with a delivery, whatever became of it."""
    await _active(tx, work, id)
    again = await deliveries.redeliver(tx, id, delivery_id)
    await _note(tx, work, "redeliver", id, after={"delivery_id": str(delivery_id)})
    return again


async def check(work: Work, body: WebhookIn) -> None:
    """Raise :class:`InvalidInput` for an address or a filter that can not be used.

    The address is checked again with every attempt, because names may lead elsewhere by then.
    """
    given = body.model_fields_set
    if "filter" in given and body.filter is not None:
        parse_condition(body.filter, path="filter")
    if "url" in given:
        policy = Policy.of_webhooks(work.parts.settings.webhook_allow_networks)
        await _check_url(body.url, policy)


async def _check_url(text: str, policy: Policy) -> None:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise InvalidInput.at("url", f"can not be used: {error}") from None
    if url.scheme not in _PORTS or not url.host or not text.isprintable() or " " in text:
        raise InvalidInput.at("url", "an address that begins with https:// or http://")
    port = _PORTS[url.scheme] if url.port is None else url.port
    if not 0 < port <= 65_535:
        raise InvalidInput.at("url", f"{port} is no port")
    if url.userinfo or url.fragment:
        raise InvalidInput.at("url", "has no user, password or fragment; use a path or the secret")
    try:
        async with asyncio.timeout(LOOK_UP_SECONDS):
            await resolve(url.host, port, policy)
    except ToolError as error:
        raise InvalidInput.at("url", error.message, code="refused_address") from None
    except (httpcore2.ConnectError, TimeoutError) as error:
        raise InvalidInput.at("url", str(error) or "its name can not be resolved") from None


async def _active(tx: Tx, work: Work, id: UUID) -> Webhook:
    webhook = await webhooks.get(tx, id, owner=work.owner)
    if webhook.status != "active":
        raise Conflict(f"the webhook is {webhook.status}; make it active first")
    return webhook


def _shown(webhook: Webhook) -> Json:
    return {
        name: getattr(webhook, name)
        for name in ("url", "topics", "filter", "description", "status")
    }


async def _note(
    tx: Tx, work: Work, action: str, id: UUID, *, before: Json = None, after: Json = None
) -> None:
    await audit.record(
        tx,
        work.actor,
        action=f"webhook.{action}",
        entity="webhook",
        entity_id=id,
        before=before,
        after=after,
    )
