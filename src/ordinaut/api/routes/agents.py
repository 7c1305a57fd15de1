"""Agents and their keys, for those who administer them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

from fastapi import Query, status

from ordinaut.api import administration
from ordinaut.api.dependencies import AgentsAdmin
from ordinaut.api.paging import cursor_id, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas.agents import (
    AgentIn,
    AgentOut,
    AgentPatch,
    KeyIn,
    KeyOut,
    NewAgent,
    NewKey,
)
from ordinaut.api.schemas.base import Page, PageQuery
from ordinaut.store import agents

routes = router("/agents", "agents")


@routes.post("", status_code=status.HTTP_201_CREATED)
async def create(body: AgentIn, work: AgentsAdmin) -> NewAgent:
    """Make an agent with its first key, which is shown this once."""
    async with work.transaction() as tx:
        agent, api_key = await administration.create(tx, work, body)
    return NewAgent(**asdict(agent) | {"scopes": list(agent.scopes)}, api_key=api_key)


@routes.get("")
async def find(query: Annotated[PageQuery, Query()], work: AgentsAdmin) -> Page[AgentOut]:
    """Return agents, newest first."""
    before = cursor_id(query.cursor)
    async with work.connection() as tx:
        found = await agents.page(tx, limit=query.limit + 1, before=before)
    page, following = paged(found, limit=query.limit, place=lambda agent: agent.id)
    return Page(items=[AgentOut.model_validate(one) for one in page], next_cursor=following)


@routes.get("/{agent_id}")
async def get(agent_id: UUID, work: AgentsAdmin) -> AgentOut:
    """Return an agent."""
    async with work.connection() as tx:
        return AgentOut.model_validate(await agents.get(tx, agent_id))


@routes.patch("/{agent_id}")
async def patch(agent_id: UUID, body: AgentPatch, work: AgentsAdmin) -> AgentOut:
    """Change the given fields; a disabled agent gets in no more."""
    async with work.transaction() as tx:
        changed = await administration.change(tx, work, agent_id, body)
    work.parts.auth.forget()
    return AgentOut.model_validate(changed)


@routes.delete("/{agent_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(agent_id: UUID, work: AgentsAdmin) -> None:
    """Revoke all that an agent holds; its tasks and its traces stay."""
    async with work.transaction() as tx:
        await administration.delete(tx, work, agent_id)
    work.parts.auth.forget()


@routes.post("/{agent_id}/keys", status_code=status.HTTP_201_CREATED)
async def create_key(agent_id: UUID, work: AgentsAdmin, body: KeyIn | None = None) -> NewKey:
    """Make one more key for an agent; it is shown this once."""
    async with work.transaction() as tx:
        key, api_key = await administration.add_key(tx, work, agent_id, body or KeyIn())
    return NewKey(**asdict(key), api_key=api_key)


@routes.get("/{agent_id}/keys")
async def find_keys(agent_id: UUID, work: AgentsAdmin) -> Page[KeyOut]:
    """Return the keys of an agent without their secrets, the revoked ones too."""
    async with work.connection() as tx:
        await agents.get(tx, agent_id)
        found = await agents.keys(tx, agent_id)
    return Page(items=[KeyOut.model_validate(key) for key in found])


@routes.delete("/{agent_id}/keys/{key_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_key(agent_id: UUID, key_id: UUID, work: AgentsAdmin) -> None:
    """End a key."""
    async with work.transaction() as tx:
        await administration.revoke_key(tx, work, agent_id, key_id=key_id)
    work.parts.auth.forget()
