"""How the system fares: processes, queue, tools, extensions, audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from ordinaut.api import answers
from ordinaut.api.dependencies import SystemRead, ToolsRead
from ordinaut.api.paging import cursor_seq, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.system import (
    AuditEntry,
    AuditQuery,
    ProcessOut,
    QueueOut,
    ToolOut,
)
from ordinaut.store import audit, cluster

routes = router("", "system")


@routes.get("/workers", response_model=Page[ProcessOut])
async def workers(work: SystemRead) -> Response:
    """Return the processes of the last day and what they hold."""
    async with work.connection() as tx:
        return answers.page(await cluster.workers(tx, now=work.now))


@routes.get("/queue")
async def queue(work: SystemRead) -> QueueOut:
    """Return how much work there is, and for how long the oldest of it has been ready."""
    async with work.connection() as tx:
        found = {one.state: one for one in await cluster.queue(tx)}
    counts: dict[str, int] = {state: one.count for state, one in found.items()}
    ready = found.get("ready")
    waited = None if ready is None else (work.now - ready.oldest_run_at).total_seconds()
    return QueueOut(counts=counts, total=sum(counts.values()), oldest_ready_seconds=waited)


@routes.get("/tools", response_model=Page[ToolOut])
async def tools(work: ToolsRead) -> Response:
    """Return what a step can call, with the schemas of arguments and result."""
    return answers.page(work.parts.tools.catalogue())


@routes.get("/audit", response_model=Page[AuditEntry])
async def audit_log(query: Annotated[AuditQuery, Query()], work: SystemRead) -> Response:
    """Return who changed what, newest first; all of it for administrators, else one's own."""
    given = query.model_dump(exclude={"limit", "cursor"})
    if work.owner is not None:
        given["actor_id"] = work.owner
    before = cursor_seq(query.cursor)
    async with work.connection() as tx:
        found = await audit.page(tx, limit=query.limit + 1, before=before, **given)
    page, following = paged(found, limit=query.limit, place=lambda entry: entry.seq)
    return answers.page(page, following)
