"""What callers do to secrets, and the check that a pipeline names only secrets that exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from ordinaut.api.dependencies import Work
from ordinaut.errors import FieldProblem, Forbidden, InvalidPipeline
from ordinaut.model import Task
from ordinaut.store import audit, secrets
from ordinaut.store.database import Tx
from ordinaut.store.secrets import SecretRecord


def owner(work: Work, whose: UUID | None) -> UUID:
    """Return the agent whose secrets are meant; raises :class:`Forbidden` for another's."""
    if whose is None or whose == work.agent.id:
        return work.agent.id
    if work.owner is not None:
        raise Forbidden("the secrets of other agents need the scope with :all at its end")
    return whose


def seen(work: Work, whose: UUID | None) -> UUID | None:
    """Return whose secrets a list shows; ``None`` for those of everybody."""
    return work.owner if whose is None else owner(work, whose)


async def put(tx: Tx, work: Work, name: str, value: str, whose: UUID | None) -> SecretRecord:
    """Set a secret."""
    made = await secrets.put(
        tx,
        name,
        value=value,
        owner=owner(work, whose),
        keys=work.parts.keys,
        now=work.now,
    )
    await _note(tx, work, "set", name, made.agent_id)
    return made


async def delete(tx: Tx, work: Work, name: str, whose: UUID | None) -> None:
    """Remove a secret."""
    of = owner(work, whose)
    await secrets.delete(tx, name, owner=of)
    await _note(tx, work, "delete", name, of)


async def check(tx: Tx, task: Task, named: Mapping[str, str]) -> None:
    """Raise :class:`InvalidPipeline` when a pipeline names a secret that its owner has not."""
    problems = await unknown(tx, task.created_by, tuple(named.items()))
    if problems:
        raise InvalidPipeline(problems[0].message, problems=tuple(problems))


async def unknown(tx: Tx, of: UUID, named: Sequence[tuple[str, str]]) -> list[FieldProblem]:
    """Return a problem for each place that names a secret which ``of`` has not."""
    if not named:
        return []
    known = await secrets.known(tx, {name for name, _ in named}, owner=of)
    return [
        FieldProblem(place, f"no secret {name}; set it with PUT /secrets/{name}", "unknown_secret")
        for name, place in named
        if name not in known
    ]


async def _note(tx: Tx, work: Work, action: str, name: str, of: UUID) -> None:
    await audit.record(
        tx,
        work.actor,
        action=f"secret.{action}",
        entity="secret",
        entity_id=name,
        after={"name": name, "agent_id": str(of)},
    )
