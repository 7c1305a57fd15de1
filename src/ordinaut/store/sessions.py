"""Sessions of browsers: a random value in a cookie, of which only the keyed hash is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ordinaut.model import Agent, uuid7
from ordinaut.store.database import Queries, Tx

SQL = Queries("sessions")


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is good, and whose it is."""

    id: UUID
    agent: Agent
    expires_at: datetime


async def insert(
    tx: Tx,
    agent: Agent,
    *,
    keys: Sequence[bytes],
    digest: bytes,
    now: datetime,
    expires_at: datetime,
) -> Session:
    """Store a session of ``agent``, who signed in with the key that has one of ``keys``."""
    made = Session(uuid7(), agent, expires_at)
    values = {"id": made.id, "keys": list(keys), "digest": digest, "now": now}
    await tx.execute(SQL["insert"], values | {"expires_at": expires_at})
    return made


async def find(
    tx: Tx, hashed: Sequence[bytes], *, now: datetime, idle_since: datetime
) -> Session | None:
    """Return the session whose value has one of these digests, used after ``idle_since``."""
    values = {"digests": list(hashed), "now": now, "idle_since": idle_since}
    row = await (await tx.execute(SQL["find"], values)).fetchone()
    if row is None:
        return None
    session_id, expires_at, agent_id, name, scopes, status = row
    return Session(session_id, Agent(agent_id, name, frozenset(scopes), status), expires_at)


async def end(tx: Tx, session_id: UUID, *, now: datetime) -> None:
    """End a session; harmless when repeated."""
    await tx.execute(SQL["end"], {"id": session_id, "now": now})
