"""What the operator decided about extensions at run time; every process follows it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from ordinaut.store import audit
from ordinaut.store.audit import Actor
from ordinaut.store.database import Queries, Tx

SQL = Queries("extensions")


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


async def lead(tx: Tx, name: str, *, holder: UUID, lease: timedelta) -> bool:
    """Take or keep what one process at a time does; False while another has it."""
    cursor = await tx.execute(SQL["lead"], {"name": name, "holder": holder, "lease": lease})
    return await cursor.fetchone() is not None


async def follow(tx: Tx, name: str, *, holder: UUID) -> None:
    """Give back what one process at a time does; harmless when it is not ours."""
    await tx.execute(SQL["follow"], {"name": name, "holder": holder})
