"""Where time comes from.

Pure functions take the instant as an argument; services take a :class:`Clock`. Nothing else
reads the system's clock, so tests travel in time instead of sleeping.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """The current instant, and a stopwatch."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps, for measuring intervals."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class TravelClock:
    """A clock that moves only when it is told to."""

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be an aware datetime")
        self._now = start.astimezone(UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def move(self, by: timedelta) -> None:
        """Let ``by`` pass."""
        self._now += by
        self._elapsed += by.total_seconds()

    def set(self, instant: datetime) -> None:
        """Jump to ``instant``; the stopwatch does not follow a jump backwards."""
        self._elapsed += max(0.0, (instant - self._now).total_seconds())
        self._now = instant.astimezone(UTC)
