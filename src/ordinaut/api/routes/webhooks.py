"""Webhooks: addresses that are told of events, and what became of each delivery."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

from fastapi import Query, status

from ordinaut.api import subscriptions
from ordinaut.api.dependencies import WebhooksRead, WebhooksWrite
from ordinaut.api.paging import cursor_id, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page, PageQuery
from ordinaut.api.schemas.webhooks import (
    DeliveryOut,
    DeliveryQuery,
    NewWebhook,
    Rotation,
    WebhookIn,
    WebhookOut,
    WebhookPatch,
)
from ordinaut.store import deliveries, webhooks
from ordinaut.store.deliveries import Delivery

routes = router("/webhooks", "webhooks")


@routes.post("", status_code=status.HTTP_201_CREATED)
async def create(body: WebhookIn, work: WebhooksWrite) -> NewWebhook:
    """Tell an address of events; the secret that signs is shown this once."""
    await subscriptions.check(work, body)
    async with work.transaction() as tx:
        made, secret = await subscriptions.create(tx, work, body)
    return NewWebhook(**asdict(made), signing_secret=secret)


@routes.get("")
async def find(query: Annotated[PageQuery, Query()], work: WebhooksRead) -> Page[WebhookOut]:
    """Return webhooks, newest first."""
    before = cursor_id(query.cursor)
    async with work.connection() as tx:
        found = await webhooks.page(tx, owner=work.owner, limit=query.limit + 1, before=before)
    page, following = paged(found, limit=query.limit, place=lambda one: one.id)
    return Page(items=[WebhookOut.model_validate(one) for one in page], next_cursor=following)


@routes.get("/{webhook_id}")
async def get(webhook_id: UUID, work: WebhooksRead) -> WebhookOut:
    """Return a webhook without its secret."""
    async with work.connection() as tx:
        return WebhookOut.model_validate(await webhooks.get(tx, webhook_id, owner=work.owner))


@routes.patch("/{webhook_id}")
async def patch(webhook_id: UUID, body: WebhookPatch, work: WebhooksWrite) -> WebhookOut:
    """Change the given fields; ``active`` lets a paused or disabled one hear again."""
    await subscriptions.check(work, body)
    async with work.transaction() as tx:
        changed = await subscriptions.change(tx, work, webhook_id, body)
    return WebhookOut.model_validate(changed)


@routes.delete("/{webhook_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(webhook_id: UUID, work: WebhooksWrite) -> None:
    """Remove a webhook with its deliveries."""
    async with work.transaction() as tx:
        await subscriptions.delete(tx, work, webhook_id)


@routes.post("/{webhook_id}/rotate_secret")
async def rotate_secret(
    webhook_id: UUID, work: WebhooksWrite, body: Rotation | None = None
) -> NewWebhook:
    """Make a new secret, shown this once; the old one signs as well for a while."""
    async with work.transaction() as tx:
        found, secret = await subscriptions.rotate(tx, work, webhook_id, body or Rotation())
    return NewWebhook(**asdict(found), signing_secret=secret)


@routes.post("/{webhook_id}/test", status_code=status.HTTP_202_ACCEPTED)
async def test(webhook_id: UUID, work: WebhooksWrite) -> DeliveryOut:
    """Send an event of type ``webhook.test``."""
    async with work.transaction() as tx:
        return _out(await subscriptions.test(tx, work, webhook_id))


@routes.get("/{webhook_id}/deliveries")
async def find_deliveries(
    webhook_id: UUID, query: Annotated[DeliveryQuery, Query()], work: WebhooksRead
) -> Page[DeliveryOut]:
    """Return what became of deliveries, newest first."""
    before = cursor_id(query.cursor)
    async with work.connection() as tx:
        await webhooks.get(tx, webhook_id, owner=work.owner)
        found = await deliveries.page(
            tx, webhook_id, status=query.status, limit=query.limit + 1, before=before
        )
    page, following = paged(found, limit=query.limit, place=lambda one: one.id)
    return Page(items=[_out(one) for one in page], next_cursor=following)


@routes.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=status.HTTP_202_ACCEPTED
)
async def redeliver(webhook_id: UUID, delivery_id: UUID, work: WebhooksWrite) -> DeliveryOut:
    """Deliver again, under the same id and from the first attempt."""
    async with work.transaction() as tx:
        return _out(await subscriptions.redeliver(tx, work, webhook_id, delivery_id))


def _out(delivery: Delivery) -> DeliveryOut:
    kept = asdict(delivery)
    seq = kept.pop("event_seq")
    return DeliveryOut(**kept, event_id=None if seq is None else str(seq))
