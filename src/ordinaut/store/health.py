"""What the database tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ordinaut.store.database import Queries, Tx

SQL = Queries("health")


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server: its major version, its clock, and the schema's revision if any."""

    major: int
    clock: datetime
    revision: str | None


async def server(tx: Tx) -> Server:
    """Ask the server what it is."""
    row = await (await tx.execute(SQL["server"])).fetchone()
    assert row is not None  # SELECT without FROM
    major, clock, migrated = row
    revision = None
    if migrated:
        found = await (await tx.execute(SQL["revision"])).fetchone()
        revision = None if found is None else found[0]
    return Server(major, clock, revision)


async def pooled(tx: Tx) -> bool:
    """Tell whether something stands in between: then the session we greeted does not answer."""
    row = await (await tx.execute(SQL["session"])).fetchone()
    return row != (tx.info.backend_pid,)
