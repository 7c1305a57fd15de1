"""Agents, their keys and their tokens: who may act.

A key is 256 random bits, so a fast keyed hash is the right one: what is stored is
``HMAC-SHA256(pepper, key)``, found by equality, and useless to who reads the table alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg.errors import UniqueViolation

from ordinaut.config import Settings
from ordinaut.errors import Conflict, NotFound
from ordinaut.model import Agent, uuid7
from ordinaut.store.database import Queries, Tx

SQL = Queries("agents")

KEY_PREFIX = "ord_"
REFRESH_PREFIX = "orr_"
PEPPER = "pepper"
SHOWN = 12  # characters of a key that stay visible
NAME_UNIQUE = "agent_name_unique"
SUBJECT_UNIQUE = "agent_subject_unique"

AgentStatus = Literal["active", "disabled"]


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent as it is administered."""

    id: UUID
    name: str
    scopes: tuple[str, ...]
    status: AgentStatus
    subject: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret."""

    id: UUID
    agent_id: UUID
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class RefreshUse:
    """What the use of a refresh token found."""

    family: UUID
    began_at: datetime
    reused: bool
    valid: bool
    agent: Agent


def derive(settings: Settings, purpose: str) -> bytes:
    """Return a key of its own for each purpose, so that one never serves for another."""
    return _derived(settings.secret.get_secret_value(), purpose)


def former(settings: Settings, purpose: str) -> tuple[bytes, ...]:
    """Return the same of the secrets before: what they made is still good."""
    given = settings.former_secrets
    words = [] if given is None else given.get_secret_value().split()
    return tuple(_derived(word, purpose) for word in words)


def _derived(secret: str, purpose: str) -> bytes:
    return hmac.digest(secret.encode(), f"ordinaut/{purpose}".encode(), hashlib.sha256)


def pepper(settings: Settings) -> bytes:
    """Return what API keys and refresh tokens are hashed with."""
    return derive(settings, PEPPER)


def new_key() -> str:
    """Return a new API key; its last part is a checksum, so that scanners can tell a leak."""
    body = KEY_PREFIX + secrets.token_urlsafe(32)
    return f"{body}_{zlib.crc32(body.encode()):08x}"


def digest(secret: str, pepper: bytes) -> bytes:
    """Return what is stored of a key or refresh token."""
    return hmac.digest(pepper, secret.encode(), hashlib.sha256)


async def bootstrap(tx: Tx, *, name: str, api_key: str, pepper: bytes) -> Agent:
    """Make sure that ``api_key`` belongs to an agent with the scope ``admin``.

    Calling it again with the same key changes nothing; a new key for a known name is added.
    """
    await tx.execute(SQL["lock_bootstrap"])
    hashed = digest(api_key, pepper)
    row = await (await tx.execute(SQL["admin_of_key"], {"digest": hashed})).fetchone()
    if row is not None:
        return _agent(*row)
    row = await (await tx.execute(SQL["by_name"], {"name": name})).fetchone()
    if row is None:
        made = await insert(tx, name=name, scopes=("admin",))
        row = (made.id, made.name, list(made.scopes), made.status)
    await _insert_key(tx, row[0], name="bootstrap", api_key=api_key, pepper=pepper)
    return _agent(*row)


async def insert(
    tx: Tx, *, name: str, scopes: tuple[str, ...], subject: str | None = None
) -> AgentRecord:
    """Store a new agent; raises :class:`Conflict` when its name or subject is taken."""
    values = {"id": uuid7(), "name": name, "scopes": sorted(set(scopes)), "subject": subject}
    try:
        cursor = await tx.execute(SQL["insert"], values)
    except UniqueViolation as error:
        raise _named_twice(error, name) from None
    return _one(await cursor.fetchone())


async def get(tx: Tx, agent_id: UUID, *, lock: bool = False) -> AgentRecord:
    """Return an agent; raises :class:`NotFound`."""
    cursor = await tx.execute(SQL["lock" if lock else "get"], {"id": agent_id})
    return _one(await cursor.fetchone())


async def page(tx: Tx, *, limit: int, before: UUID | None = None) -> list[AgentRecord]:
    """Return the newest agents with ``id < before``."""
    cursor = await tx.execute(SQL["page"], {"limit": limit, "before": before})
    return [_one(row) for row in await cursor.fetchall()]


async def update(
    tx: Tx,
    agent_id: UUID,
    *,
    name: str,
    scopes: tuple[str, ...],
    status: AgentStatus,
    subject: str | None,
) -> AgentRecord:
    """Replace what may change of an agent."""
    values = {
        "id": agent_id,
        "name": name,
        "scopes": sorted(set(scopes)),
        "status": status,
        "subject": subject,
    }
    try:
        cursor = await tx.execute(SQL["update"], values)
    except UniqueViolation as error:
        raise _named_twice(error, name) from None
    return _one(await cursor.fetchone())


async def delete(tx: Tx, agent_id: UUID) -> None:
    """Revoke all that an agent holds; its tasks and its traces stay."""
    await tx.execute(SQL["delete"], {"id": agent_id})


async def add_key(
    tx: Tx, agent_id: UUID, *, name: str, pepper: bytes, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Make a key for an agent; the second value is shown once and kept nowhere."""
    api_key = new_key()
    made = await _insert_key(
        tx, agent_id, name=name, api_key=api_key, pepper=pepper, expires_at=expires_at
    )
    return made, api_key


async def keys(tx: Tx, agent_id: UUID) -> list[ApiKey]:
    """Return the keys of an agent, the revoked ones too."""
    cursor = await tx.execute(SQL["keys"], {"agent_id": agent_id})
    return [ApiKey(*row) for row in await cursor.fetchall()]


async def revoke_key(tx: Tx, agent_id: UUID, *, key_id: UUID) -> None:
    """End a key; raises :class:`NotFound` when there is none that is valid."""
    cursor = await tx.execute(SQL["revoke_key"], {"id": key_id, "agent_id": agent_id})
    if await cursor.fetchone() is None:
        raise NotFound(f"agent {agent_id} has no valid key {key_id}")


async def by_key(tx: Tx, hashed: Sequence[bytes], *, now: datetime) -> Agent | None:
    """Return the agent whose valid key has one of these digests; from now on it has the first."""
    cursor = await tx.execute(SQL["by_key"], {"digests": list(hashed), "now": now})
    row = await cursor.fetchone()
    if row is not None and len(hashed) > 1:
        values = {"current": hashed[0], "former": list(hashed[1:])}
        await tx.execute(SQL["rehash_key"], values)
    return None if row is None else _agent(*row)


async def by_token(tx: Tx, agent_id: UUID, *, jti: UUID, family: UUID | None) -> Agent | None:
    """Return the agent of an access token that was not revoked."""
    cursor = await tx.execute(SQL["by_token"], {"id": agent_id, "jti": jti, "family": family})
    row = await cursor.fetchone()
    return None if row is None else _agent(*row)


async def by_subject(tx: Tx, subject: str, *, jti: UUID) -> Agent | None:
    """Return the agent that another issuer's access token speaks of, unless it was revoked."""
    cursor = await tx.execute(SQL["by_subject"], {"subject": subject, "jti": jti})
    row = await cursor.fetchone()
    return None if row is None else _agent(*row)


async def add_refresh(
    tx: Tx,
    agent_id: UUID,
    *,
    family: UUID,
    began_at: datetime,
    pepper: bytes,
    now: datetime,
    expires_at: datetime,
) -> str:
    """Store a refresh token of ``family``, which began at ``began_at``, and return it."""
    token = REFRESH_PREFIX + secrets.token_urlsafe(32)
    await tx.execute(
        SQL["insert_refresh"],
        {
            "id": uuid7(),
            "family": family,
            "agent_id": agent_id,
            "digest": digest(token, pepper),
            "began_at": began_at,
            "now": now,
            "expires_at": expires_at,
        },
    )
    return token


async def use_refresh(tx: Tx, hashed: Sequence[bytes], *, now: datetime) -> RefreshUse | None:
    """Spend a refresh token; ``None`` when nobody ever got it."""
    cursor = await tx.execute(SQL["use_refresh"], {"digests": list(hashed), "now": now})
    row = await cursor.fetchone()
    if row is None:
        return None
    family, began_at, reused, valid, *agent = row
    return RefreshUse(family, began_at, reused, valid, _agent(*agent))


async def revoke_family(tx: Tx, family: UUID, *, now: datetime) -> None:
    """End every token of a family."""
    await tx.execute(SQL["revoke_family"], {"family": family, "now": now})


async def revoke_refresh(
    tx: Tx, hashed: Sequence[bytes], *, owner: UUID | None, now: datetime
) -> None:
    """End the family of a refresh token; one that ``owner`` never got is no error (RFC 7009)."""
    values = {"digests": list(hashed), "owner": owner, "now": now}
    await tx.execute(SQL["revoke_refresh"], values)


async def revoke_access(tx: Tx, jti: UUID, *, expires_at: datetime) -> None:
    """End an access token before its time."""
    await tx.execute(SQL["revoke_access"], {"jti": jti, "expires_at": expires_at})


async def _insert_key(
    tx: Tx,
    agent_id: UUID,
    *,
    name: str,
    api_key: str,
    pepper: bytes,
    expires_at: datetime | None = None,
) -> ApiKey:
    cursor = await tx.execute(
        SQL["insert_key"],
        {
            "id": uuid7(),
            "agent_id": agent_id,
            "name": name,
            "prefix": api_key[:SHOWN],
            "digest": digest(api_key, pepper),
            "expires_at": expires_at,
        },
    )
    row = await cursor.fetchone()
    assert row is not None  # INSERT … RETURNING
    return ApiKey(*row)


def _one(row: tuple[object, ...] | None) -> AgentRecord:
    if row is None:
        raise NotFound("no such agent")
    agent_id, name, scopes, *rest = row
    return AgentRecord(agent_id, name, tuple(scopes), *rest)  # type: ignore


def _agent(agent_id: UUID, name: str, scopes: list[str], status: AgentStatus) -> Agent:
    return Agent(agent_id, name, frozenset(scopes), status)


def _named_twice(error: UniqueViolation, name: str) -> Exception:
    if error.diag.constraint_name == NAME_UNIQUE:
        return Conflict(f"there is an agent named {name!r} already")
    if error.diag.constraint_name == SUBJECT_UNIQUE:
        return Conflict("there is an agent with this subject already")
    return error
