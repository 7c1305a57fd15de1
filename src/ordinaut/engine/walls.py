"""Wall times: sets of readings of the clock on the wall, still without a zone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ordinaut.engine.days import (
    HORIZON_YEARS,
    DayPattern,
    Freq,
    YearTable,
    new_year,
    tables_of,
    weekday_of,
)
from ordinaut.engine.localtime import DAY, FIRST_INSTANT, LAST_YEAR, date_of

_COUNTED_YEARS = 1_000
# How many years, months, weeks or days a year can have a part in, less one.
_MOST_UNITS = {Freq.YEARLY: 0, Freq.MONTHLY: 11, Freq.WEEKLY: 53, Freq.DAILY: 365}


class Walls(Protocol):
    """A set of wall times."""

    def walls(self, start: int) -> Iterator[int]:
        """Yield the walls at or after ``start``, ascending."""


@dataclass(frozen=True, slots=True)
class WallList:
    """Wall times that are given one by one, ascending."""

    given: tuple[int, ...]

    def walls(self, start: int) -> Iterator[int]:
        return iter(self.given[bisect_left(self.given, start) :])


class DayRule:
    """The wall times of a day pattern from ``first`` on, INTERVAL counted from ``anchor``."""

    def __init__(
        self, pattern: DayPattern, first: int, *, anchor: int, count: int | None = None
    ) -> None:
        self.first = first
        self.last: int | None = None
        self._pattern = pattern
        self._tables = tables_of(pattern)
        self._anchor = anchor // DAY
        if count is not None:
            self.last = self._nth(count)

    @classmethod
    def always(cls, pattern: DayPattern) -> DayRule:
        """Return the rule without a beginning."""
        return cls(pattern, FIRST_INSTANT, anchor=0)

    def until(self, wall: int | None) -> DayRule:
        """End the rule at ``wall``, inclusive."""
        if wall is not None:
            self.last = wall if self.last is None else min(self.last, wall)
        return self

    def walls(self, start: int) -> Iterator[int]:
        start = max(start, self.first)
        last = self.last
        for base, table in self._years(start // DAY, HORIZON_YEARS):
            for index in range(bisect_left(table.days, start // DAY - base), len(table.days)):
                midnight = (base + table.days[index]) * DAY
                clock = table.times[index]
                low = bisect_left(clock, start - midnight) if midnight < start else 0
                for position in range(low, len(clock)):
                    wall = midnight + clock[position]
                    if last is not None and wall > last:
                        return
                    yield wall

    def _nth(self, count: int) -> int | None:
        """Return the ``count``-th wall, or None when it lies more than 1,000 years ahead."""
        left = count
        for base, table in self._years(self.first // DAY, _COUNTED_YEARS):
            if base * DAY > self.first and left > table.total:
                left -= table.total
                continue
            for index in range(bisect_left(table.days, self.first // DAY - base), len(table.days)):
                midnight, clock = (base + table.days[index]) * DAY, table.times[index]
                low = bisect_left(clock, self.first - midnight)
                if left <= len(clock) - low:
                    return midnight + clock[low + left - 1]
                left -= len(clock) - low
        return None

    def _years(self, day: int, limit: int) -> Iterator[tuple[int, YearTable]]:
        # A week that began in the old year belongs to the old year's table.
        start = date_of(day - 6).year
        step = self._pattern.interval
        for year in range(start, min(start + limit, LAST_YEAR) + 1):
            phase = units_before(self._pattern, year, self._anchor) % step if step > 1 else 0
            if phase and step - phase > _MOST_UNITS[self._pattern.freq]:
                continue  # the next period of a long INTERVAL lies beyond this year
            table = self._tables.get(year, phase)
            if table.total:
                yield new_year(year), table


def units_before(pattern: DayPattern, year: int, anchor: int) -> int:
    """Return how many of the pattern's periods lie between ``anchor`` and the start of ``year``."""
    start = date_of(anchor)
    if pattern.freq == Freq.YEARLY:
        return year - start.year
    if pattern.freq == Freq.MONTHLY:
        return (year - start.year) * 12 - (start.month - 1)
    if pattern.freq == Freq.DAILY:
        return new_year(year) - anchor
    return (week_of(new_year(year), pattern.week_start) - week_of(anchor, pattern.week_start)) // 7


def week_of(day: int, week_start: int) -> int:
    """Return the first day of the week that ``day`` lies in."""
    return day - (weekday_of(day) - week_start) % 7
