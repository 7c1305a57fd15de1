"""Being the one that does a duty, for as long as PostgreSQL says so."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from ordinaut.clock import Clock
from ordinaut.store import leaders
from ordinaut.store.database import Database
from ordinaut.store.leaders import Duty
from ordinaut.telemetry import logger

LEASE = timedelta(seconds=5)  # a holder that died is followed after it
RENEW_EVERY = 1.5  # seconds; a renewal may fail twice before the lease ends
PATIENCE = 2.0  # seconds for one renewal

log = logger(__name__)


class Leadership:
    """One process's claim to one duty; ``epoch`` is its fence, None while another has it."""

    def __init__(self, db: Database, clock: Clock, duty: Duty, *, holder: UUID) -> None:
        self.duty: Duty = duty
        self._db = db
        self._clock = clock
        self._holder = holder
        self._epoch: int | None = None
        self._asked = self._until = float("-inf")

    @property
    def epoch(self) -> int | None:
        """The number of this holding, while it is certain that nobody else has the duty."""
        return self._epoch if self._clock.monotonic() < self._until else None

    async def renew(self) -> int | None:
        """Take the duty or keep it, asking at most every :data:`RENEW_EVERY` seconds."""
        now = self._clock.monotonic()
        if now - self._asked < RENEW_EVERY:
            return self.epoch
        self._asked = now
        async with asyncio.timeout(PATIENCE), self._db.connection() as tx:
            epoch = await leaders.seize(tx, self.duty, holder=self._holder, lease=LEASE)
        if epoch != self._epoch:
            log.info("leader.changed", duty=self.duty, epoch=epoch)
        self._epoch = epoch
        self._until = now + LEASE.total_seconds()
        return self.epoch

    async def resign(self) -> None:
        """Give the duty back so that another need not wait for the lease to end."""
        if (epoch := self.epoch) is not None:
            async with self._db.connection() as tx:
                await leaders.resign(tx, self.duty, holder=self._holder, epoch=epoch)
        self._epoch = None
