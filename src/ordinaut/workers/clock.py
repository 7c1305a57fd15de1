"""The database's clock, carried on by this machine's stopwatch."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from ordinaut.clock import SystemClock


class DatabaseClock:
    """Tells the database's time between two readings of it.

    The machine's own clock is not asked again after the start, so when it jumps, what a worker
    writes down does not.
    """

    def __init__(self) -> None:
        self._reading = SystemClock().now()
        self._at = time.monotonic()

    def set(self, reading: datetime) -> None:
        """Take a fresh reading of the database's clock."""
        self._reading = reading
        self._at = time.monotonic()

    def now(self) -> datetime:
        return self._reading + timedelta(seconds=time.monotonic() - self._at)

    def monotonic(self) -> float:
        return time.monotonic()
