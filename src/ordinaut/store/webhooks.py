"""Webhooks: which address is told of which events, and the secrets that sign for it.

A secret is encrypted like those of agents, bound to its webhook. It leaves here twice: when it
is made, to be shown this once, and when it signs.
"""

from __future__ import annotations

import secrets as random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias
from uuid import UUID

from ordinaut.engine.webhooks import SECRET_BYTES, secret_of
from ordinaut.errors import NotFound
from ordinaut.model import uuid7
from ordinaut.store import secrets
from ordinaut.store.database import Database, Queries, Tx
from ordinaut.store.secrets import Keyring, Sealed

SQL = Queries("webhooks")

_NAME: Final = "webhook"  # what its ciphertexts are bound to, beside the id

Status: TypeAlias = Literal["active", "paused", "disabled"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook as it is stored, without its secrets; ``reason`` says why it is disabled."""

    id: UUID
    url: str
    topics: list[str]
    filter: str | None
    description: str
    status: Status
    reason: str
    failing_since: datetime | None
    created_by: UUID
    created_at: datetime
    updated_at: datetime


async def count(tx: Tx, owner: UUID) -> int:
    """Return how many webhooks an agent has, and let nobody make one for it until commit."""
    row = await (await tx.execute(SQL["count"], {"owner": owner})).fetchone()
    return row[0] if row else 0


async def create(
    tx: Tx,
    *,
    url: str,
    topics: Sequence[str],
    filter: str | None,
    description: str,
    owner: UUID,
    now: datetime,
) -> Webhook:
    """Store a webhook, which has no secret yet."""
    values = {
        "id": uuid7(),
        "url": url,
        "topics": list(topics),
        "filter": filter,
        "description": description,
        "owner": owner,
        "now": now,
    }
    row = await (await tx.execute(SQL["create"], values)).fetchone()
    assert row is not None  # INSERT … RETURNING
    return Webhook(*row)


async def get(tx: Tx, id: UUID, *, owner: UUID | None, lock: bool = False) -> Webhook:
    """Return a webhook; raises :class:`NotFound`, for that of another owner as well."""
    cursor = await tx.execute(SQL["lock" if lock else "get"], {"id": id, "owner": owner})
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"no such webhook: {id}")
    return Webhook(*row)


async def page(
    tx: Tx, *, owner: UUID | None, limit: int, before: UUID | None = None
) -> list[Webhook]:
    """Return the newest webhooks with ``id < before``, of one agent or of all."""
    values = {"owner": owner, "limit": limit, "before": before}
    return [Webhook(*row) for row in await (await tx.execute(SQL["page"], values)).fetchall()]


async def update(tx: Tx, webhook: Webhook, *, now: datetime) -> Webhook:
    """Write the fields of a webhook that :func:`get` locked."""
    values = {
        "id": webhook.id,
        "url": webhook.url,
        "topics": webhook.topics,
        "filter": webhook.filter,
        "description": webhook.description,
        "status": webhook.status,
        "now": now,
    }
    row = await (await tx.execute(SQL["update"], values)).fetchone()
    assert row is not None  # it is locked
    return Webhook(*row)


async def delete(tx: Tx, id: UUID) -> None:
    """Remove a webhook with its secrets and deliveries."""
    await tx.execute(SQL["delete_deliveries"], {"id": id})
    await tx.execute(SQL["delete"], {"id": id})


async def new_secret(tx: Tx, id: UUID, *, keys: Keyring, overlap: timedelta) -> str:
    """Make the secret that signs from now on, and return it this once.

    The one before signs as well while ``overlap`` lasts; one that was replaced earlier ends.
    """
    await tx.execute(SQL["forget_secrets"], {"webhook_id": id})
    await tx.execute(SQL["end_secrets"], {"webhook_id": id, "overlap": overlap})
    secret = secret_of(random.token_bytes(SECRET_BYTES))
    sealed = keys.seal(secret, owner=id, name=_NAME)
    values = {
        "id": uuid7(),
        "webhook_id": id,
        "ciphertext": sealed.ciphertext,
        "key_id": sealed.key_id,
    }
    await tx.execute(SQL["add_secret"], values)
    return secret


async def sealed_secrets(
    tx: Tx, ids: Collection[UUID], *, now: datetime | None = None
) -> dict[UUID, list[Sealed]]:
    """Return the secrets that sign for webhooks, the newest first; :func:`opened` reads one."""
    found: dict[UUID, list[Sealed]] = defaultdict(list)
    cursor = await tx.execute(SQL["secrets"], {"ids": list(ids), "now": now})
    for webhook_id, key_id, ciphertext in await cursor.fetchall():
        found[webhook_id].append(Sealed(key_id, ciphertext))
    return found


def opened(keys: Keyring, id: UUID, sealed: Sequence[Sealed]) -> list[str]:
    """Decrypt the secrets of a webhook; raises :class:`~ordinaut.errors.Undecipherable`."""
    return [keys.open(one, owner=id, name=_NAME) for one in sealed]


async def rotate(db: Database, keys: Keyring) -> int:
    """Encrypt with the current key whatever another key encrypted; returns how many."""
    return await secrets.rotate(db, keys, of=SQL)
