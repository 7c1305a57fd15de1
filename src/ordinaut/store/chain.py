"""The chain over the audit log: who changes, removes or slips in an entry is found out.

::

    seal n = HMAC(key, seal n-1 + entry)      position 1, 2, 3 … without gaps

The key is derived from ORDINAUT_SECRET and is not in the database, so that not even the owner of
the tables can make a chain that fits. Entries are sealed seconds after they have committed, by
the leader: writers neither wait for each other nor know of the chain. What the chain can not
see: an entry that was changed before it was sealed, and that the newest ones are gone together
with their seals; against that, note its head from time to time and have it verified.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from ordinaut.config import Settings
from ordinaut.store.agents import derive, former
from ordinaut.store.database import Queries, Tx

SQL = Queries("chain")

BATCH: Final = 2_000
MAX_PROBLEMS: Final = 100
START: Final = b"\0" * 32  # what the first seal has before it


@dataclass(frozen=True, slots=True)
class Key:
    """What seals are made with."""

    id: str
    secret: bytes

    def seal(self, before: bytes, entry: str) -> bytes:
        """Return the seal of an entry after the seal ``before``."""
        return hmac.digest(self.secret, before + entry.encode(), hashlib.sha256)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest seal."""

    position: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.position}:{self.hash.hex()}"


@dataclass(slots=True)
class Report:
    """What a verification found; no ``problems`` is good."""

    head: Head
    problems: list[str] = field(default_factory=list)
    pending: int = 0
    pending_since: datetime | None = None


Sealed: TypeAlias = tuple[int, int, bytes, str, str, bool]


def key_of(settings: Settings) -> Key:
    """Return the key of this installation; its id says which one it is and no more."""
    return _key(derive(settings, "audit"))


def keys_of(settings: Settings) -> dict[str, Key]:
    """Return that key and those of the secrets before, by id."""
    keys = [key_of(settings), *map(_key, former(settings, "audit"))]
    return {key.id: key for key in keys}


def _key(secret: bytes) -> Key:
    return Key(hashlib.sha256(secret).hexdigest()[:12], secret)


async def seal(tx: Tx, key: Key, *, limit: int = BATCH) -> int:
    """Seal what has committed since the last time, at most ``limit`` entries; returns how many."""
    row = await (await tx.execute(SQL["cursor"])).fetchone()
    assert row is not None  # by migration
    done, seq, now = row
    values = {"done": done, "now": now, "seq": seq, "limit": limit}
    entries = await (await tx.execute(SQL["unsealed"], values)).fetchall()
    head = await _head(tx)
    hashes = []
    last = head.hash
    for _, entry in entries:
        last = key.seal(last, entry)
        hashes.append(last)
    await tx.execute(
        SQL["seal"],
        {
            "positions": list(range(head.position + 1, head.position + 1 + len(entries))),
            "seqs": [place for place, _ in entries],
            "hashes": hashes,
            "key_id": key.id,
        },
    )
    if len(entries) < limit:
        await tx.execute(SQL["advance"], {"now": now})
    return len(entries)


async def verify(tx: Tx, keys: Mapping[str, Key], *, noted: str | None = None) -> Report:
    """Compare every entry with its seal; ``noted`` is a head that was written down before."""
    report = Report(Head(0, START))
    seen_noted = noted is None
    async for sealed in _chain(tx):
        if len(report.problems) >= MAX_PROBLEMS:
            report.problems.append("… and so on")
            return report
        report.problems += _problems(report.head, sealed, keys)
        report.head = Head(sealed[0], sealed[2])
        seen_noted = seen_noted or str(report.head) == noted
    if not seen_noted:
        report.problems.append(f"the head {noted} that was noted is not in the chain")
    strangers = await (await tx.execute(SQL["strangers"], {"limit": MAX_PROBLEMS})).fetchall()
    report.problems += [f"entry {seq} was inserted beside the chain" for (seq,) in strangers]
    row = await (await tx.execute(SQL["pending"])).fetchone()
    report.pending, report.pending_since = row or (0, None)
    return report


async def _head(tx: Tx) -> Head:
    row = await (await tx.execute(SQL["head"])).fetchone()
    return Head(0, START) if row is None else Head(*row)


async def _chain(tx: Tx) -> AsyncIterator[Sealed]:
    after = 0
    while True:
        cursor = await tx.execute(SQL["sealed"], {"after": after, "limit": BATCH})
        rows: list[Sealed] = await cursor.fetchall()
        for row in rows:
            yield row
        if len(rows) < BATCH:
            return
        after = rows[-1][0]


def _problems(before: Head, sealed: Sealed, keys: Mapping[str, Key]) -> list[str]:
    position, seq, found, key_id, entry, exists = sealed
    if position != before.position + 1:
        # What comes after a gap can not be compared: it was made with the seal that is missing.
        return [f"the seals {before.position + 1} to {position - 1} were removed"]
    if key_id not in keys:
        return [f"entry {seq} was sealed with another key ({key_id}) than that of ORDINAUT_SECRET"]
    if not exists:
        return [f"entry {seq} was removed"]
    if not hmac.compare_digest(keys[key_id].seal(before.hash, entry), found):
        return [f"entry {seq}, or its seal, was changed"]
    return []
