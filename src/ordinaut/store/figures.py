"""Counts that grow: how many events of each kind there were since one began to count."""

from __future__ import annotations

from ordinaut.store.database import Queries, Tx

SQL = Queries("figures")


async def snapshot(tx: Tx) -> str:
    """Return where counting begins."""
    row = await (await tx.execute(SQL["snapshot"])).fetchone()
    assert row is not None  # SELECT without FROM
    return str(row[0])


async def run_events(tx: Tx, seen: str) -> tuple[str, dict[str, int]]:
    """Count the events of runs by topic since ``seen``; the first value is the next ``seen``."""
    row = await (await tx.execute(SQL["run_events"], {"seen": seen})).fetchone()
    assert row is not None  # SELECT without FROM
    return row[0], row[1]
