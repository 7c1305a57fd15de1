"""What stands behind the facades: the store and Redis, or a test's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from psycopg.errors import UndefinedTable

from ordinaut.bus import Bus
from ordinaut.clock import Clock, SystemClock
from ordinaut.config import Settings
from ordinaut.errors import Unavailable
from ordinaut.model import Event, uuid7
from ordinaut.plugins import references
from ordinaut.plugins.background import Leases
from ordinaut.plugins.base import Services
from ordinaut.plugins.events import Pace, Publish, Transport
from ordinaut.plugins.references import Choice
from ordinaut.plugins.services import StoreServices
from ordinaut.store import extensions, journal
from ordinaut.store.database import Database
from ordinaut.store.secrets import keyring

LEASE = 6.0  # seconds; a renewal may fail twice before it ends


class AlwaysOurs:
    """The leases of a process that is alone."""

    async def take(self, name: str) -> bool:
        return True

    async def give_back(self, name: str) -> None:
        return None


class StoredLeases:
    """The leases of the cluster, in the database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._holder = uuid7()

    async def take(self, name: str) -> bool:
        async with asyncio.timeout(LEASE / 2), self._db.connection() as tx:
            lease = timedelta(seconds=LEASE)
            return await extensions.lead(tx, name, holder=self._holder, lease=lease)

    async def give_back(self, name: str) -> None:
        async with asyncio.timeout(LEASE / 2), self._db.connection() as tx:
            await extensions.follow(tx, name, holder=self._holder)


async def _nobody_chose() -> Mapping[str, Choice]:
    return {}


@dataclass(frozen=True, slots=True)
class Backend:
    """How events leave and arrive, what the core does for its own packs, who is to run."""

    publish: Publish
    transport: Callable[[], Transport]
    services: Services | None = None
    pace: Pace = field(default_factory=Pace)
    choices: Callable[[], Awaitable[Mapping[str, Choice]]] = _nobody_chose
    leases: Leases = field(default_factory=AlwaysOurs)


def backend_of(settings: Settings, db: Database | None, clock: Clock | None = None) -> Backend:
    """Return the product's backend; without a database nothing can be published."""

    async def publish(event: Event) -> None:
        if db is None:
            raise Unavailable("this process has no outbox to publish into")
        async with db.transaction() as tx:
            await journal.emit(tx, [event])

    async def choices() -> Mapping[str, Choice]:
        if db is None:
            return {}
        async with db.connection() as tx:
            chosen = await extensions.choices(tx)
            try:
                stored = await extensions.configured(tx)
            except UndefinedTable:
                stored = {}  # the schema of the version before, during an upgrade
            opened = {id: await references.opened(tx, one, keys) for id, one in stored.items()}
        return {
            id: replace(opened.get(id, Choice()), enabled=chosen.get(id))
            for id in chosen.keys() | opened.keys()
        }

    keys = keyring(settings)
    return Backend(
        publish=publish,
        transport=lambda: Bus(settings.redis_url),
        services=None
        if db is None
        else StoreServices(db, clock or SystemClock(), redis_url=settings.redis_url),
        choices=choices,
        leases=AlwaysOurs() if db is None else StoredLeases(db),
    )
