"""Secrets of agents, encrypted at rest: AES-256-GCM with a key that is not in the database.

What is encrypted is bound to its agent and name (the additional data), so a ciphertext that
somebody moves to another row does not open there. Several keys may be known by id: the first
encrypts, all of them decrypt, until ``rotate`` has written everything with the first.
"""

from __future__ import annotations

import hashlib
import secrets as random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.errors import ForeignKeyViolation

from ordinaut.config import Settings, parse_keys
from ordinaut.errors import NotFound, Undecipherable
from ordinaut.model import uuid7
from ordinaut.store.agents import derive, former
from ordinaut.store.database import Database, Queries, Tx

SQL = Queries("secrets")

NONCE: Final = 12  # bytes, random for each encryption
DERIVED: Final = "derived"  # begins the id of a key that is made from ORDINAUT_SECRET
BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """What may be shown of a secret: never its value."""

    id: UUID
    name: str
    agent_id: UUID
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value as it is stored."""

    key_id: str
    ciphertext: bytes


class Keyring:
    """The keys by id; the first is the current one."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self.current = next(iter(keys))
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        # The first versions called the derived key by one name, whichever secret it came from.
        self._first_derived = next((k for k in keys if k.startswith(f"{DERIVED}-")), DERIVED)

    def seal(self, value: str, *, owner: UUID, name: str) -> Sealed:
        """Encrypt a value with the current key."""
        nonce = random.token_bytes(NONCE)
        cipher = self._ciphers[self.current]
        return Sealed(
            self.current, nonce + cipher.encrypt(nonce, value.encode(), _binding(owner, name))
        )

    def open(self, sealed: Sealed, *, owner: UUID, name: str) -> str:
        """Decrypt a value; raises :class:`Undecipherable`."""
        key_id = self._first_derived if sealed.key_id == DERIVED else sealed.key_id
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Undecipherable(
                f"the secret {name!r} was encrypted with the key {sealed.key_id!r}, which is not "
                "among those of ORDINAUT_SECRETS_KEYS"
            )
        nonce, rest = sealed.ciphertext[:NONCE], sealed.ciphertext[NONCE:]
        try:
            return cipher.decrypt(nonce, rest, _binding(owner, name)).decode()
        except (InvalidTag, ValueError):
            raise Undecipherable(
                f"the secret {name!r} does not open with the key {sealed.key_id!r}: the key is "
                "another one, or the row was changed"
            ) from None


def keyring(settings: Settings) -> Keyring:
    """Return the keys of this installation; the one derived from ORDINAUT_SECRET comes last."""
    given = settings.secrets_keys
    known = {} if given is None else parse_keys(given.get_secret_value())
    derived = (derive(settings, "secrets"), *former(settings, "secrets"))
    return Keyring({**known, **{_derived_id(key): key for key in derived}})


def _derived_id(key: bytes) -> str:
    return f"{DERIVED}-{hashlib.sha256(key).hexdigest()[:8]}"


def _binding(owner: UUID, name: str) -> bytes:
    return f"ordinaut/secret/{owner}/{name}".encode()


async def put(
    tx: Tx, name: str, *, value: str, owner: UUID, keys: Keyring, now: datetime
) -> SecretRecord:
    """Store a secret of ``owner``, in place of the one of this name if there is one."""
    sealed = keys.seal(value, owner=owner, name=name)
    try:
        cursor = await tx.execute(
            SQL["put"],
            {
                "id": uuid7(),
                "name": name,
                "owner": owner,
                "ciphertext": sealed.ciphertext,
                "key_id": sealed.key_id,
                "now": now,
            },
        )
    except ForeignKeyViolation:
        raise NotFound(f"no such agent: {owner}") from None
    row = await cursor.fetchone()
    assert row is not None  # INSERT … RETURNING
    return SecretRecord(*row)


async def get(tx: Tx, name: str, *, owner: UUID) -> SecretRecord:
    """Return what may be shown of a secret; raises :class:`NotFound`."""
    cursor = await tx.execute(SQL["get"], {"name": name, "owner": owner})
    row = await cursor.fetchone()
    if row is None:
        raise _missing(name)
    return SecretRecord(*row)


async def page(
    tx: Tx, *, owner: UUID | None, limit: int, before: UUID | None = None
) -> list[SecretRecord]:
    """Return the newest secrets with ``id < before``, of one agent or of all."""
    values = {"owner": owner, "limit": limit, "before": before}
    cursor = await tx.execute(SQL["page"], values)
    return [SecretRecord(*row) for row in await cursor.fetchall()]


async def delete(tx: Tx, name: str, *, owner: UUID) -> None:
    """Remove a secret; raises :class:`NotFound`."""
    cursor = await tx.execute(SQL["delete"], {"name": name, "owner": owner})
    if await cursor.fetchone() is None:
        raise _missing(name)


async def known(tx: Tx, names: Collection[str], *, owner: UUID) -> frozenset[str]:
    """Return those of ``names`` that ``owner`` has a secret of."""
    cursor = await tx.execute(SQL["known"], {"owner": owner, "names": list(names)})
    return frozenset([name for (name,) in await cursor.fetchall()])


async def sealed(tx: Tx, names: Collection[str], *, owner: UUID) -> dict[str, Sealed]:
    """Return the ciphertexts of those of ``names`` that exist."""
    cursor = await tx.execute(SQL["sealed"], {"owner": owner, "names": list(names)})
    return {
        name: Sealed(key_id, ciphertext) for name, key_id, ciphertext in await cursor.fetchall()
    }


async def rotate(db: Database, keys: Keyring, *, of: Queries = SQL) -> int:
    """Encrypt with the current key whatever another key encrypted; returns how many.

    ``of`` are the statements of what is stored: ``old`` finds some, ``reseal`` writes them. Each
    batch is a transaction of its own: who is cut off begins where he was.
    """
    count = 0
    while True:
        async with db.transaction() as tx:
            changed = await _rotate_some(tx, keys, of)
        count += changed
        if changed < BATCH:
            return count


async def _rotate_some(tx: Tx, keys: Keyring, of: Queries) -> int:
    cursor = await tx.execute(of["old"], {"key_id": keys.current, "limit": BATCH})
    ids: list[UUID] = []
    fresh: list[bytes] = []
    for secret_id, owner, name, key_id, ciphertext in await cursor.fetchall():
        value = keys.open(Sealed(key_id, ciphertext), owner=owner, name=name)
        ids.append(secret_id)
        fresh.append(keys.seal(value, owner=owner, name=name).ciphertext)
    values = {"ids": ids, "ciphertexts": fresh, "key_id": keys.current}
    await tx.execute(of["reseal"], values)
    return len(ids)


def _missing(name: str) -> NotFound:
    return NotFound(f"no such secret: {name}")
