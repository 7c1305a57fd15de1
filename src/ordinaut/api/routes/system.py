"""How the system fares: health, processes, queue, tools, extensions, audit log."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import psycopg
from fastapi import Query, Response, status

from ordinaut import telemetry
from ordinaut.api.dependencies import (
    Connection,
    Parts,
    SystemRead,
    ToolsRead,
    cursor_seq,
    paged,
)
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.system import (
    AuditEntry,
    AuditQuery,
    Health,
    ProcessOut,
    QueueOut,
    ToolOut,
)
from ordinaut.api.services import Services
from ordinaut.store import audit, cluster

routes = router("", "system")

log = telemetry.logger(__name__)

PATIENCE: Final = 2.0  # seconds until a database that does not answer counts as away


@routes.get("/health/live")
async def live() -> Health:
    """Say that this process answers."""
    return Health(status="ok")


@routes.get("/health", responses={503: {"model": Health}})
@routes.get("/health/ready", responses={503: {"model": Health}})
async def ready(parts: Parts, response: Response) -> Health:
    """Say whether this process can do its work; 503 with the reason when it can not."""
    trouble = await _database_trouble(parts)
    if trouble is None:
        return Health(status="ok", checks={"database": "ok"})
    response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Health(status="unavailable", checks={"database": trouble})


@routes.get("/workers")
async def workers(caller: SystemRead, tx: Connection, parts: Parts) -> Page[ProcessOut]:
    """Return the processes of the last day and what they hold."""
    found = await cluster.workers(tx, now=parts.clock.now())
    return Page(items=[ProcessOut.model_validate(one) for one in found])


@routes.get("/queue")
async def queue(caller: SystemRead, tx: Connection, parts: Parts) -> QueueOut:
    """Return how much work there is, and for how long the oldest of it has been ready."""
    found = {one.state: one for one in await cluster.queue(tx)}
    counts: dict[str, int] = {state: one.count for state, one in found.items()}
    ready = found.get("ready")
    waited = None if ready is None else (parts.clock.now() - ready.oldest_run_at).total_seconds()
    return QueueOut(counts=counts, total=sum(counts.values()), oldest_ready_seconds=waited)


@routes.get("/tools")
async def tools(caller: ToolsRead, parts: Parts) -> Page[ToolOut]:
    """Return what a step can call, with the schemas of arguments and result."""
    return Page(items=[ToolOut(**one) for one in parts.tools.catalogue()])


@routes.get("/audit")
async def audit_log(
    query: Annotated[AuditQuery, Query()], caller: SystemRead, tx: Connection
) -> Page[AuditEntry]:
    """Return who changed what, newest first."""
    found = await audit.page(
        tx,
        limit=query.limit + 1,
        before=cursor_seq(query.cursor),
        entity=query.entity,
        entity_id=query.entity_id,
        actor_id=query.actor_id,
        action=query.action,
    )
    page, following = paged(found, limit=query.limit, place=lambda entry: entry.seq)
    return Page(items=[AuditEntry.model_validate(one) for one in page], next_cursor=following)


async def _database_trouble(parts: Services) -> str | None:
    try:
        async with asyncio.timeout(PATIENCE), parts.db.connection() as tx:
            await cluster.ping(tx)
    except TimeoutError:
        return f"PostgreSQL does not answer within {PATIENCE:.0f} s"
    except psycopg.Error as error:
        log.warning("health.database", error=str(error))  # addresses are not for everybody
        return "PostgreSQL can not be reached"
    return None
