"""What administrators do to agents, each with its audit entry.

Nobody hands out what he does not hold, and nobody touches an agent that holds more: else a key
for that agent would be a way to more than one's own.
"""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from ordinaut.api.dependencies import Work
from ordinaut.api.schemas.agents import AgentIn, AgentPatch, KeyIn
from ordinaut.api.scopes import check_grant, of_roles
from ordinaut.errors import InvalidInput
from ordinaut.model import Json
from ordinaut.store import agents, audit
from ordinaut.store.agents import AgentRecord, ApiKey
from ordinaut.store.database import Tx


async def create(tx: Tx, work: Work, body: AgentIn) -> tuple[AgentRecord, str]:
    """Make an agent with its first key."""
    scopes = {*body.scopes, *of_roles(body.roles)}
    check_grant(work.agent, scopes)
    agent = await agents.insert(tx, name=body.name, scopes=tuple(scopes), subject=body.subject)
    pepper = agents.pepper(work.parts.settings)
    _, api_key = await agents.add_key(tx, agent.id, name="first", pepper=pepper)
    await _note(tx, work, "create", agent.id, after=_shown(agent))
    return agent, api_key


async def change(tx: Tx, work: Work, agent_id: UUID, body: AgentPatch) -> AgentRecord:
    """Change the fields that were given."""
    before = await _locked(tx, agent_id, work)
    given = body.model_dump(exclude_unset=True)
    if "roles" in given:
        given["scopes"] = {*given.get("scopes", ()), *of_roles(given["roles"])}
    check_grant(work.agent, given.get("scopes", ()))
    after = await agents.update(
        tx,
        agent_id,
        name=given.get("name", before.name),
        scopes=tuple(given.get("scopes", before.scopes)),
        status=given.get("status", before.status),
        subject=given.get("subject", before.subject),
    )
    await _note(tx, work, "update", agent_id, before=_shown(before), after=_shown(after))
    return after


async def delete(tx: Tx, work: Work, agent_id: UUID) -> None:
    """Revoke all that an agent holds and take it out of sight."""
    before = await _locked(tx, agent_id, work)
    await agents.delete(tx, agent_id)
    await _note(tx, work, "delete", agent_id, before=_shown(before))


async def add_key(tx: Tx, work: Work, agent_id: UUID, body: KeyIn) -> tuple[ApiKey, str]:
    """Make one more key for an agent."""
    await _locked(tx, agent_id, work)
    if body.expires_at is not None and body.expires_at <= work.now:
        raise InvalidInput.at("expires_at", "lies in the past")
    pepper = agents.pepper(work.parts.settings)
    key, api_key = await agents.add_key(
        tx, agent_id, name=body.name, pepper=pepper, expires_at=body.expires_at
    )
    await _note(tx, work, "add_key", agent_id, after={"key_id": str(key.id), "name": key.name})
    return key, api_key


async def revoke_key(tx: Tx, work: Work, agent_id: UUID, *, key_id: UUID) -> None:
    """End a key of an agent."""
    await _locked(tx, agent_id, work)
    await agents.revoke_key(tx, agent_id, key_id=key_id)
    await _note(tx, work, "revoke_key", agent_id, before={"key_id": str(key_id)})


async def _locked(tx: Tx, agent_id: UUID, work: Work) -> AgentRecord:
    agent = await agents.get(tx, agent_id, lock=True)
    check_grant(work.agent, agent.scopes)
    return agent


def _shown(agent: AgentRecord) -> Json:
    kept = asdict(agent)
    kept = {key: kept[key] for key in ("name", "status", "subject")}
    return kept | {"scopes": list(agent.scopes)}


async def _note(
    tx: Tx,
    work: Work,
    action: str,
    agent_id: UUID,
    *,
    before: Json = None,
    after: Json = None,
) -> None:
    await audit.record(
        tx,
        work.actor,
        action=f"agent.{action}",
        entity="agent",
        entity_id=agent_id,
        before=before,
        after=after,
    )
