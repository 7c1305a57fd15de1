"""What stands behind the facades: the store and Redis, or a test's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ordinaut.bus import Bus
from ordinaut.clock import Clock, SystemClock
from ordinaut.config import Settings
from ordinaut.errors import Unavailable
from ordinaut.model import Event
from ordinaut.plugins.base import Services
from ordinaut.plugins.events import Pace, Publish, Transport
from ordinaut.plugins.services import StoreServices
from ordinaut.store import journal
from ordinaut.store.database import Database


@dataclass(frozen=True, slots=True)
class Backend:
    """How events leave and arrive, and what the core does for its own packs."""

    publish: Publish
    transport: Callable[[], Transport]
    services: Services | None = None
    pace: Pace = field(default_factory=Pace)


def backend_of(settings: Settings, db: Database | None, clock: Clock | None = None) -> Backend:
    """Return the product's backend; without a database nothing can be published."""

    async def publish(event: Event) -> None:
        if db is None:
            raise Unavailable("this process has no outbox to publish into")
        async with db.transaction() as tx:
            await journal.emit(tx, [event])

    return Backend(
        publish=publish,
        transport=lambda: Bus(settings.redis_url),
        services=None if db is None else StoreServices(db, clock or SystemClock()),
    )
