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
        self._ahead = SystemClock().now().timestamp() - monotonic()  # of the stopwatch, in seconds

    def set(self, reading: datetime, *, asked_at: float) -> None:
        """Take a reading, which was made some time between the question and now.

        The clock moves no further than that demands: an answer that was long on its way says
        little.
        """
        told = reading.timestamp()
        self._ahead = min(max(self._ahead, told - monotonic()), told - asked_at)

    def reached(self, instant: datetime) -> None:
        """Take word that the database's clock has shown ``instant``."""
        self._ahead = max(self._ahead, instant.timestamp() - monotonic())

    def now(self) -> datetime:
        return _from_timestamp(monotonic() + self._ahead, UTC)

    def monotonic(self) -> float:
        return monotonic()
