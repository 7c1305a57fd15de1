"""Deliveries: events on their way to webhooks, from the outbox to the last attempt.

::

    add ──► pending ──claim, settle──► delivered
               ▲  │ a failed attempt: pending again, later
               │  └──────────────────► dead        the last attempt failed, or it was disabled
               └── redeliver ─────────────┘

A claim is a lease: ``next_attempt_at`` lies behind it, so who dies in between needs nobody to
clean up, and its token fences what comes too late. A delivery may be attempted twice; its id is
the same both times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias
from uuid import UUID

from ordinaut.errors import NotFound
from ordinaut.model import Event, uuid7
from ordinaut.store import audit, journal
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import array
from ordinaut.store.triggers import Place
from ordinaut.store.waits import Heard

SQL = Queries("deliveries")
CURSOR = "webhooks"
GONE = 410

Status: TypeAlias = Literal["pending", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class Listener:
    """A webhook that is told of events; ``sees_all`` is about its owner."""

    id: UUID
    topics: list[str]
    filter: str | None
    listens_from: datetime
    owner: UUID
    sees_all: bool


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """An event for one webhook; without ``event_seq`` it is a test."""

    webhook_id: UUID
    topic: str
    body: str
    event_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to attempt a delivery, at the instant ``now``."""

    id: UUID
    token: int
    webhook_id: UUID
    url: str
    attempts: int
    body: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Attempted:
    """What came of an attempt; ``pause`` is how long until the next one, where one follows."""

    claim: Claim
    status: Status
    response_status: int | None = None
    error: str = ""
    pause: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery as people see it."""

    id: UUID
    webhook_id: UUID
    event_seq: int | None
    topic: str
    status: Status
    attempts: int
    response_status: int | None
    error: str
    created_at: datetime
    attempted_at: datetime | None
    finished_at: datetime | None
    next_attempt_at: datetime | None


async def listeners(tx: Tx) -> list[Listener]:
    """Return the webhooks that are told of events, and let none of them go before commit."""
    return [Listener(*row) for row in await (await tx.execute(SQL["listeners"])).fetchall()]


async def fresh(tx: Tx, keys: Collection[str], *, place: Place, limit: int) -> list[Heard]:
    """Return the next events under ``keys`` in a part of the outbox."""
    values = {
        "snapshot": place.since,
        "target": place.until,
        "after": place.seq,
        "limit": limit,
        "keys": list(keys),
    }
    return [Heard(*row) for row in await (await tx.execute(SQL["fresh"], values)).fetchall()]


async def add(tx: Tx, new: Sequence[NewDelivery], *, now: datetime | None = None) -> list[UUID]:
    """Put deliveries on their way; returns the ids of those that were not before."""
    if not new:
        return []
    values = {
        "ids": array([uuid7() for _ in new]),
        "webhook_ids": array([one.webhook_id for one in new]),
        "seqs": array([one.event_seq for one in new]),
        "topics": [one.topic for one in new],
        "bodies": [one.body for one in new],
        "now": now,
    }
    return [id for (id,) in await (await tx.execute(SQL["add"], values)).fetchall()]


async def due(tx: Tx, *, now: datetime | None = None) -> bool:
    """Tell whether any delivery may be due."""
    return await (await tx.execute(SQL["due"], {"now": now})).fetchone() == (True,)


async def claim(
    tx: Tx,
    *,
    limit: int,
    share: int,
    busy: Mapping[UUID, int],
    lease: timedelta,
    now: datetime | None = None,
) -> list[Claim]:
    """Take up to ``limit`` deliveries that are due for the time of ``lease``.

    ``share`` is how many a webhook gets at a time, with those of ``busy`` that it has already.
    """
    values = {
        "limit": limit,
        "share": share,
        "busy": array(list(busy)),
        "taken": list(busy.values()),
        "lease": lease,
        "now": now,
    }
    return [Claim(*row) for row in await (await tx.execute(SQL["claim"], values)).fetchall()]


async def release(tx: Tx, claims: Sequence[Claim]) -> None:
    """Give back what was claimed and not attempted."""
    values = {"ids": array([c.id for c in claims]), "tokens": [c.token for c in claims]}
    await tx.execute(SQL["release"], values)


async def settle(
    tx: Tx, attempted: Sequence[Attempted], *, patience: timedelta, now: datetime | None = None
) -> list[UUID]:
    """Write down what came of attempts, as far as their leases hold; returns whose they were.

    A webhook whose address is gone (410), or that fails for longer than ``patience``, is
    disabled with an event.
    """
    values = {
        "ids": array([a.claim.id for a in attempted]),
        "tokens": [a.claim.token for a in attempted],
        "urls": [a.claim.url for a in attempted],
        "statuses": [a.status for a in attempted],
        "codes": array([a.response_status for a in attempted]),
        "errors": [a.error for a in attempted],
        "pauses": [a.pause for a in attempted],
        "now": now,
    }
    found = await (await tx.execute(SQL["settle"], values)).fetchall()
    settled = {id for id, _ in found}
    counted = [a for a in attempted if a.claim.id in settled]
    oks: dict[UUID, bool] = {}
    for one in counted:
        webhook_id = one.claim.webhook_id
        oks[webhook_id] = oks.get(webhook_id, False) or one.status == "delivered"
    await tx.execute(SQL["judge"], {"ids": array(list(oks)), "oks": list(oks.values()), "now": now})
    gone = {a.claim.webhook_id for a in counted if a.response_status == GONE}
    failed = [webhook_id for webhook_id, ok in oks.items() if not ok]
    await _disable(tx, failed, gone=gone, patience=patience, now=now)
    return [a.claim.id for a in counted]


async def _disable(
    tx: Tx,
    ids: Sequence[UUID],
    *,
    gone: Collection[UUID],
    patience: timedelta,
    now: datetime | None,
) -> None:
    if not ids and not gone:
        return
    values = {
        "ids": array([*ids, *gone]),
        "gone": array(list(gone)),
        "patience": patience,
        "now": now,
    }
    ended = await (await tx.execute(SQL["disable"], values)).fetchall()
    if not ended:
        return
    await tx.execute(SQL["bury"], {"webhook_ids": array([id for id, _, _ in ended]), "now": now})
    events = [
        Event(
            "webhook.disabled",
            {"webhook_id": str(id), "agent_id": str(owner), "reason": reason},
            subject=str(id),
        )
        for id, owner, reason in ended
    ]
    await journal.emit(tx, events, now=now)
    for id, _, reason in ended:
        await audit.record(
            tx,
            audit.SYSTEM,
            action="webhook.disable",
            entity="webhook",
            entity_id=id,
            after={"status": "disabled", "reason": reason},
        )


async def page(
    tx: Tx, webhook_id: UUID, *, status: Status | None, limit: int, before: UUID | None = None
) -> list[Delivery]:
    """Return the newest deliveries of a webhook with ``id < before``."""
    values = {"webhook_id": webhook_id, "status": status, "limit": limit, "before": before}
    return [Delivery(*row) for row in await (await tx.execute(SQL["page"], values)).fetchall()]


async def get(tx: Tx, webhook_id: UUID, id: UUID) -> Delivery:
    """Return a delivery; raises :class:`NotFound`."""
    return await _one(tx, "get", webhook_id, id)


async def redeliver(tx: Tx, webhook_id: UUID, id: UUID) -> Delivery:
    """Begin again with a delivery; raises :class:`NotFound`."""
    return await _one(tx, "redeliver", webhook_id, id)


async def _one(tx: Tx, name: str, webhook_id: UUID, id: UUID) -> Delivery:
    cursor = await tx.execute(SQL[name], {"webhook_id": webhook_id, "id": id})
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"no such delivery: {id}")
    return Delivery(*row)
