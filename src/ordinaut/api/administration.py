"""What administrators do to agents, each with its audit entry.

Nobody hands out what he does not hold, and nobody touches an agent that holds more: else a key
for that agent would be a way to more than one's own.
"""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from ordinaut.api.dependencies import Caller
from ordinaut.api.schemas.agents import AgentIn, AgentPatch, KeyIn
from ordinaut.api.scopes import check_grant
from ordinaut.api.services import Services
from ordinaut.errors import InvalidInput
from ordinaut.model import Json
from ordinaut.store import agents, audit
from ordinaut.store.agents import AgentRecord, ApiKey
from ordinaut.store.database import Tx


async def create(
    tx: Tx, parts: Services, body: AgentIn, *, caller: Caller
) -> tuple[AgentRecord, str]:
    """Make an agent with its first key."""
    check_grant(caller.agent, body.scopes)
    agent = await agents.insert(tx, name=body.name, scopes=tuple(body.scopes))
    pepper = agents.pepper(parts.settings)
    _, api_key = await agents.add_key(tx, agent.id, name="first", pepper=pepper)
    await _note(tx, caller, "create", agent.id, after=_shown(agent))
    return agent, api_key


async def change(
    tx: Tx, parts: Services, agent_id: UUID, body: AgentPatch, *, caller: Caller
) -> AgentRecord:
    """Change the fields that were given."""
    before = await _locked(tx, agent_id, caller)
    given = body.model_dump(exclude_unset=True)
    check_grant(caller.agent, given.get("scopes", ()))
    after = await agents.update(
        tx,
        agent_id,
        name=given.get("name", before.name),
        scopes=tuple(given.get("scopes", before.scopes)),
        status=given.get("status", before.status),
    )
    await _note(tx, caller, "update", agent_id, before=_shown(before), after=_shown(after))
    parts.auth.forget()
    return after


async def delete(tx: Tx, parts: Services, agent_id: UUID, *, caller: Caller) -> None:
    """Revoke all that an agent holds and take it out of sight."""
    before = await _locked(tx, agent_id, caller)
    await agents.delete(tx, agent_id)
    await _note(tx, caller, "delete", agent_id, before=_shown(before))
    parts.auth.forget()


async def add_key(
    tx: Tx, parts: Services, agent_id: UUID, body: KeyIn, *, caller: Caller
) -> tuple[ApiKey, str]:
    """Make one more key for an agent."""
    await _locked(tx, agent_id, caller)
    if body.expires_at is not None and body.expires_at <= parts.clock.now():
        raise InvalidInput.at("expires_at", "lies in the past")
    pepper = agents.pepper(parts.settings)
    key, api_key = await agents.add_key(
        tx, agent_id, name=body.name, pepper=pepper, expires_at=body.expires_at
    )
    await _note(tx, caller, "add_key", agent_id, after={"key_id": str(key.id), "name": key.name})
    return key, api_key


async def revoke_key(
    tx: Tx, parts: Services, agent_id: UUID, *, key_id: UUID, caller: Caller
) -> None:
    """End a key of an agent."""
    await _locked(tx, agent_id, caller)
    await agents.revoke_key(tx, agent_id, key_id=key_id)
    await _note(tx, caller, "revoke_key", agent_id, before={"key_id": str(key_id)})
    parts.auth.forget()


async def _locked(tx: Tx, agent_id: UUID, caller: Caller) -> AgentRecord:
    agent = await agents.get(tx, agent_id, lock=True)
    check_grant(caller.agent, agent.scopes)
    return agent


def _shown(agent: AgentRecord) -> Json:
    kept = asdict(agent)
    return {"name": kept["name"], "scopes": list(agent.scopes), "status": kept["status"]}


async def _note(
    tx: Tx,
    caller: Caller,
    action: str,
    agent_id: UUID,
    *,
    before: Json = None,
    after: Json = None,
) -> None:
    await audit.record(
        tx,
        caller.actor,
        action=f"agent.{action}",
        entity="agent",
        entity_id=agent_id,
        before=before,
        after=after,
    )
