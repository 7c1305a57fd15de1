"""Secrets of agents: names and times are shown, values never."""

from __future__ import annotations

from typing import Annotated, TypeAlias
from uuid import UUID

from fastapi import Query, status

from ordinaut.api import confidences
from ordinaut.api.dependencies import SecretsRead, SecretsWrite
from ordinaut.api.paging import cursor_id, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.secrets import SecretIn, SecretName, SecretOut, SecretQuery
from ordinaut.store import secrets

routes = router("/secrets", "secrets")

Whose: TypeAlias = Annotated[
    UUID | None, Query(alias="agent_id", description="Whose; the caller's own by default.")
]


@routes.get("")
async def find(query: Annotated[SecretQuery, Query()], work: SecretsRead) -> Page[SecretOut]:
    """Return the names of secrets, newest first."""
    owner = confidences.seen(work, query.agent_id)
    before = cursor_id(query.cursor)
    async with work.connection() as tx:
        found = await secrets.page(tx, owner=owner, limit=query.limit + 1, before=before)
    page, following = paged(found, limit=query.limit, place=lambda one: one.id)
    return Page(items=[SecretOut.model_validate(one) for one in page], next_cursor=following)


@routes.get("/{name}")
async def get(name: SecretName, work: SecretsRead, whose: Whose = None) -> SecretOut:
    """Return when a secret was set; its value is not shown."""
    async with work.connection() as tx:
        found = await secrets.get(tx, name, owner=confidences.owner(work, whose))
    return SecretOut.model_validate(found)


@routes.put("/{name}")
async def put(
    name: SecretName, body: SecretIn, work: SecretsWrite, whose: Whose = None
) -> SecretOut:
    """Set a secret; pipelines use it as ${secrets.NAME} within "with"."""
    async with work.transaction() as tx:
        made = await confidences.put(tx, work, name, body.value.get_secret_value(), whose)
    return SecretOut.model_validate(made)


@routes.delete("/{name}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(name: SecretName, work: SecretsWrite, whose: Whose = None) -> None:
    """Remove a secret; a step that names it fails from then on."""
    async with work.transaction() as tx:
        await confidences.delete(tx, work, name, whose)
