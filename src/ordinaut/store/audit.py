"""The audit log: who changed what, written in the transaction of the change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.model import Json
from ordinaut.store.database import Queries, Tx

SQL = Queries("audit")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, as the audit log names it, and from where."""

    id: UUID | None
    name: str
    request_id: str = ""
    address: str = ""


SYSTEM = Actor(None, "system")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the audit log."""

    seq: int
    at: datetime
    actor_id: UUID | None
    actor: str
    action: str
    entity: str
    entity_id: str
    before: Json
    after: Json
    request_id: str
    address: str


async def record(
    tx: Tx,
    actor: Actor,
    *,
    action: str,
    entity: str,
    entity_id: object,
    before: Json = None,
    after: Json = None,
) -> None:
    """Write down that ``actor`` did ``action``; ``before`` and ``after`` are plain JSON."""
    await tx.execute(
        SQL["record"],
        {
            "actor_id": actor.id,
            "actor": actor.name,
            "action": action,
            "entity": entity,
            "entity_id": str(entity_id),
            "before": None if before is None else Jsonb(before),
            "after": None if after is None else Jsonb(after),
            "request_id": actor.request_id,
            "address": actor.address,
        },
    )


async def page(
    tx: Tx,
    *,
    limit: int,
    before: int | None = None,
    entity: str | None = None,
    entity_id: str | None = None,
    actor_id: UUID | None = None,
    action: str | None = None,
) -> list[Entry]:
    """Return the newest entries with ``seq < before`` that fit."""
    cursor = await tx.execute(
        SQL["page"],
        {
            "limit": limit,
            "before": before,
            "entity": entity,
            "entity_id": entity_id,
            "actor_id": actor_id,
            "action": action,
        },
    )
    return [Entry(*row) for row in await cursor.fetchall()]
