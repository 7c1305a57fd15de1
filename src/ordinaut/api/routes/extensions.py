"""Extensions: how they fare, which of them run, and how they are configured."""

from __future__ import annotations

from fastapi import Response, status

from ordinaut.api import answers, extending
from ordinaut.api.dependencies import Administration, SystemRead
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.extensions import (
    ChoiceOut,
    ConfigIn,
    ConfigOut,
    ExtensionId,
    ExtensionOut,
)

routes = router("/extensions", "extensions")


@routes.get("", response_model=Page[ExtensionOut])
async def find(work: SystemRead) -> Response:
    """Return the extensions of this process and how they fare."""
    return answers.page(work.parts.host.describe())


@routes.post("/{extension_id}/enable", status_code=status.HTTP_202_ACCEPTED)
async def enable(extension_id: ExtensionId, work: Administration) -> ChoiceOut:
    """Let an extension run, in every process, within seconds."""
    async with work.transaction() as tx:
        await extending.choose(tx, work, extension_id, enabled=True)
    return ChoiceOut(id=extension_id, enabled=True)


@routes.post("/{extension_id}/disable", status_code=status.HTTP_202_ACCEPTED)
async def disable(extension_id: ExtensionId, work: Administration) -> ChoiceOut:
    """Stop an extension, in every process, within seconds."""
    async with work.transaction() as tx:
        await extending.choose(tx, work, extension_id, enabled=False)
    return ChoiceOut(id=extension_id, enabled=False)


@routes.get("/{extension_id}/config")
async def config(extension_id: ExtensionId, work: Administration) -> ConfigOut:
    """Return what was configured over the API, and what may be."""
    async with work.connection() as tx:
        return await extending.configuration(tx, work, extension_id)


@routes.put("/{extension_id}/config", status_code=status.HTTP_202_ACCEPTED)
async def configure(extension_id: ExtensionId, body: ConfigIn, work: Administration) -> ConfigOut:
    """Configure an extension; every process starts it anew with that, within seconds."""
    async with work.transaction() as tx:
        return await extending.configure(tx, work, extension_id, body.config)


@routes.delete("/{extension_id}/config", status_code=status.HTTP_204_NO_CONTENT)
async def forget(extension_id: ExtensionId, work: Administration) -> None:
    """Leave an extension to its settings alone, in every process, within seconds."""
    async with work.transaction() as tx:
        await extending.forget(tx, work, extension_id)
