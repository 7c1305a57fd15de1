"""What the operator decided about extensions at run time; every process follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.errors import NotFound
from ordinaut.model import Json
from ordinaut.store import audit
from ordinaut.store.audit import Actor
from ordinaut.store.database import Queries, Tx

SQL = Queries("extensions")


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration of an extension; ``${secrets.NAME}`` in it is a secret of the agent."""

    id: str
    config: Mapping[str, Json]
    agent_id: UUID
    updated_at: datetime


async def choices(tx: Tx) -> dict[str, bool]:
    """Return whether each extension that was decided about is to run."""
    cursor = await tx.execute(SQL["choices"])
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def choose(tx: Tx, extension_id: str, *, enabled: bool, actor: Actor) -> None:
    """Decide whether an extension runs."""
    cursor = await tx.execute(SQL["choose"], {"id": extension_id, "enabled": enabled})
    row = await cursor.fetchone()
    assert row is not None  # INSERT … DO UPDATE returns its row
    before = None if row[0] is None else {"enabled": row[0]}
    await audit.record(
        tx,
        actor,
        action="enable" if enabled else "disable",
        entity="extension",
        entity_id=extension_id,
        before=before,
        after={"enabled": enabled},
    )


async def configured(tx: Tx, extension_id: str | None = None) -> dict[str, Configured]:
    """Return what was configured, of one extension or of all."""
    cursor = await tx.execute(SQL["configured"], {"id": extension_id})
    return {row[0]: Configured(*row) for row in await cursor.fetchall()}


async def configure(
    tx: Tx,
    extension_id: str,
    *,
    config: Mapping[str, Json],
    agent: UUID,
    actor: Actor,
    now: datetime,
) -> None:
    """Store the configuration of an extension; the audit log names its keys alone."""
    values = {"id": extension_id, "config": Jsonb(dict(config)), "agent": agent, "now": now}
    await tx.execute(SQL["configure"], values)
    await _note(tx, "configure", extension_id, actor, {"keys": sorted(config)})


async def forget(tx: Tx, extension_id: str, *, actor: Actor) -> None:
    """Remove the configuration of an extension; raises :class:`NotFound` if there is none."""
    cursor = await tx.execute(SQL["forget"], {"id": extension_id})
    if await cursor.fetchone() is None:
        raise NotFound(f"extension {extension_id!r} has no configuration but its settings")
    await _note(tx, "configure", extension_id, actor, {"keys": []})


async def _note(tx: Tx, action: str, extension_id: str, actor: Actor, after: Json) -> None:
    await audit.record(
        tx, actor, action=action, entity="extension", entity_id=extension_id, after=after
    )


async def lead(tx: Tx, name: str, *, holder: UUID, lease: timedelta) -> bool:
    """Take or keep what one process at a time does; False while another has it."""
    cursor = await tx.execute(SQL["lead"], {"name": name, "holder": holder, "lease": lease})
    return await cursor.fetchone() is not None


async def follow(tx: Tx, name: str, *, holder: UUID) -> None:
    """Give back what one process at a time does; harmless when it is not ours."""
    await tx.execute(SQL["follow"], {"name": name, "holder": holder})
