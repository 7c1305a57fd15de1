"""Answers kept for a repeated ``Idempotency-Key``.

The answer is written in the transaction of the change that it reports, so the two exist
together or not at all: a process that dies in between leaves neither, and nothing has to be
cleaned up before the caller may try again.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from ordinaut.errors import Conflict, InvalidInput
from ordinaut.store.database import Queries, Tx

SQL = Queries("idempotency")
HEADER = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered the first time."""

    status: int
    body: bytes


async def claim(tx: Tx, agent_id: UUID, *, key: str, fingerprint: bytes) -> Answer | None:
    """Reserve ``key`` until the transaction ends, or return the answer that it already has.

    Raises :class:`Conflict` while another request holds the key and :class:`InvalidInput` when
    the key belongs to a request that was not the same.
    """
    values = {"agent_id": agent_id, "key": key}
    locked = await (await tx.execute(SQL["try_lock"], values)).fetchone()
    if locked != (True,):
        raise Conflict(f"a request with this {HEADER} is still being answered")
    row = await (await tx.execute(SQL["find"], values)).fetchone()
    if row is None:
        return None
    if row[0] != fingerprint:
        raise InvalidInput.at(
            HEADER, "this key was used for another request", code="idempotency_key_reused"
        )
    return Answer(row[1], row[2])


async def keep(tx: Tx, agent_id: UUID, *, key: str, fingerprint: bytes, answer: Answer) -> None:
    """Store the answer to a claimed key."""
    await tx.execute(
        SQL["keep"],
        {
            "agent_id": agent_id,
            "key": key,
            "fingerprint": fingerprint,
            "status": answer.status,
            "body": answer.body,
        },
    )
