"""The database's clock, carried on by this machine's stopwatch."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic

from ordinaut.clock import SystemClock

_from_timestamp = datetime.fromtimestamp  # looked up once: a run asks several times


class DatabaseClock:
    """Tells the database's time between two readings of it.

    The machine's own clock is not asked again after the start, so when it jumps, what a worker
    writes down does not.
    """

    def __init__(self) -> None:
        self._ahead = 0.0  # of the database's epoch seconds to the stopwatch
        self.set(SystemClock().now(), asked_at=monotonic())

    def set(self, reading: datetime, *, asked_at: float) -> None:
        """Take a fresh reading; it was made half-way between the question and now."""
        self._ahead = reading.timestamp() - (asked_at + monotonic()) / 2

    def now(self) -> datetime:
        return _from_timestamp(monotonic() + self._ahead, UTC)

    def monotonic(self) -> float:
        return monotonic()
