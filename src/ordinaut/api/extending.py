"""What administrators do to extensions: choose which run, and configure them.

Each function works in the caller's transaction; the processes find the change by themselves
(:meth:`ordinaut.plugins.host.ExtensionHost.refresh`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ordinaut.api.dependencies import Work
from ordinaut.api.schemas.extensions import ConfigOut
from ordinaut.errors import Conflict
from ordinaut.model import Json
from ordinaut.plugins import references
from ordinaut.store import extensions
from ordinaut.store.database import Tx
from ordinaut.store.extensions import Configured


async def choose(tx: Tx, work: Work, extension_id: str, *, enabled: bool) -> None:
    """Decide whether an extension runs; raises :class:`NotFound` and :class:`Conflict`."""
    host = work.parts.host
    host.manifest(extension_id)
    if enabled and host.is_pinned(extension_id):
        raise Conflict(f"ORDINAUT_EXT_DISABLED holds {extension_id!r}: nothing enables it")
    await extensions.choose(tx, extension_id, enabled=enabled, actor=work.actor)


async def configuration(tx: Tx, work: Work, extension_id: str) -> ConfigOut:
    """Return what was configured, the names of secrets in place of their values."""
    schema = work.parts.host.manifest(extension_id).config_schema
    stored = (await extensions.configured(tx, extension_id)).get(extension_id)
    return ConfigOut(
        id=extension_id,
        config={} if stored is None else dict(stored.config),
        config_schema=schema,
        agent_id=None if stored is None else stored.agent_id,
        updated_at=None if stored is None else stored.updated_at,
    )


async def configure(tx: Tx, work: Work, extension_id: str, config: Mapping[str, Json]) -> ConfigOut:
    """Check and store a configuration; the secrets that it names are those of the caller."""
    stored = Configured(extension_id, config, work.agent.id, work.now)
    work.parts.host.check(extension_id, await references.opened(tx, stored, work.parts.keys))
    await extensions.configure(
        tx, extension_id, config=config, agent=work.agent.id, actor=work.actor, now=work.now
    )
    return await configuration(tx, work, extension_id)


async def forget(tx: Tx, work: Work, extension_id: str) -> None:
    """Remove what was configured over the API."""
    work.parts.host.manifest(extension_id)
    await extensions.forget(tx, extension_id, actor=work.actor)
