"""Whether this process lives and can do its work: public, and silent about addresses."""

from __future__ import annotations

import asyncio
from typing import Final

import psycopg
from fastapi import Response, status

from ordinaut import telemetry
from ordinaut.api.dependencies import Parts
from ordinaut.api.routing import router
from ordinaut.api.schemas.system import Health
from ordinaut.api.services import Services
from ordinaut.store import cluster

routes = router("/health", "health")

PATIENCE: Final = 2.0  # seconds until a database that does not answer counts as away

log = telemetry.logger(__name__)


@routes.get("/live")
async def live() -> Health:
    """Say that this process answers."""
    return Health(status="ok")


@routes.get("", responses={503: {"model": Health}})
@routes.get("/ready", responses={503: {"model": Health}})
async def ready(parts: Parts, response: Response) -> Health:
    """Say whether this process can do its work; 503 with the reason when it can not."""
    trouble = await _database_trouble(parts)
    if trouble is None:
        return Health(status="ok", checks={"database": "ok"})
    response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Health(status="unavailable", checks={"database": trouble})


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
