"""The database's clock, carried on by this machine's stopwatch."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from ordinaut.clock import SystemClock


class DatabaseClock:
    """Tells the database's time between two readings of it.

    The machine's own clock is not asked again after the start, so when it jumps, what a worker
    writes down does not.
    """

    def __init__(self) -> None:
        self._ahead = 0.0  # of the database's epoch seconds to the stopwatch
        self.set(SystemClock().now())

    def set(self, reading: datetime) -> None:
        """Take a fresh reading of the database's clock."""
        self._ahead = reading.timestamp() - time.monotonic()

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.monotonic() + self._ahead, UTC)

    def monotonic(self) -> float:
        return time.monotonic()
