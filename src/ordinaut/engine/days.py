"""Which days match a rule, a year at a time.

The days of a year that match BYMONTH, BYMONTHDAY, BYDAY … depend only on whether the year is
leap, on the weekday of its first of January, and, with INTERVAL, on where the year lies in the
cycle (the phase). So a table is made once for each such kind of year and found again for ever:
looking 400 years ahead costs 400 dictionary look-ups, and a rule that never matches is known
to never match.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import isleap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from functools import lru_cache
from typing import overload

from ordinaut.engine.localtime import HOUR, MINUTE, date_of, day_of

# The Gregorian calendar repeats after 400 years; nothing is searched further than that.
HORIZON_YEARS = 400
# A month day of 0 stands for the last day from Monday to Friday (cron's LW).
LAST_WORKDAY = 0

_WEEK = 7
_MAX_TABLES = 256
_MONTH_STARTS = (
    (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365),
    (0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335, 366),
)


class Freq(IntEnum):
    """How often a rule repeats, from coarse to fine."""

    YEARLY = 0
    MONTHLY = 1
    WEEKLY = 2
    DAILY = 3
    HOURLY = 4
    MINUTELY = 5
    SECONDLY = 6


# The most days that one period can have, for BYSETPOS.
_MOST_DAYS = {Freq.YEARLY: 366, Freq.MONTHLY: 31, Freq.WEEKLY: 7, Freq.DAILY: 1}


class DayTimes(Sequence[int]):
    """The times of a day in seconds, ascending: every hour with every minute and second."""

    __slots__ = ("hours", "minutes", "seconds")

    def __init__(
        self, hours: Iterable[int], minutes: Iterable[int] = (0,), seconds: Iterable[int] = (0,)
    ) -> None:
        self.hours = tuple(sorted(set(hours)))
        self.minutes = tuple(sorted(set(minutes)))
        self.seconds = tuple(sorted(set(seconds)))

    def __len__(self) -> int:
        return len(self.hours) * len(self.minutes) * len(self.seconds)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        if not 0 <= index < len(self):
            raise IndexError(index)
        rest, second = divmod(index, len(self.seconds))
        hour, minute = divmod(rest, len(self.minutes))
        return self.hours[hour] * HOUR + self.minutes[minute] * MINUTE + self.seconds[second]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DayTimes) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[tuple[int, ...], ...]:
        return self.hours, self.minutes, self.seconds


MIDNIGHT = DayTimes((0,))


@dataclass(frozen=True, slots=True)
class DayPattern:
    """What a day, and the time on it, must look like to match.

    Empty sets match everything. Weekdays are ``(n, weekday)`` with Monday 0; ``n`` 0 means each,
    otherwise the n-th of the month or year, from the end if negative. With ``either`` the day of
    the month or the weekday is enough (cron).
    """

    freq: Freq
    interval: int = 1
    week_start: int = 0
    months: frozenset[int] = frozenset()
    month_days: frozenset[int] = frozenset()
    year_days: frozenset[int] = frozenset()
    week_numbers: frozenset[int] = frozenset()
    weekdays: frozenset[tuple[int, int]] = frozenset()
    either: bool = False
    times: DayTimes = MIDNIGHT
    positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class YearTable:
    """The matching days of one kind of year, counted from its first of January, and their times."""

    days: Sequence[int]
    times: Sequence[Sequence[int]]
    total: int


NO_DAYS = YearTable((), (), 0)


class _Year:
    """One year, and the days in it that match a part of a pattern."""

    def __init__(self, year: int) -> None:
        self.year = year
        self.first = new_year(year)
        self.weekday = weekday_of(self.first)
        self.month_starts = _MONTH_STARTS[isleap(year)]
        self.length = self.month_starts[-1]

    def month(self, month: int) -> range:
        return range(self.month_starts[month - 1], self.month_starts[month])

    def in_months(self, months: Iterable[int]) -> set[int]:
        return {day for month in months for day in self.month(month)}

    def on_month_days(self, numbers: Iterable[int], months: Iterable[int]) -> set[int]:
        found = set()
        for month in months:
            days = self.month(month)
            for number in numbers:
                index = number - 1 if number > 0 else number
                if number == LAST_WORKDAY:
                    index = -1 - max(0, (days[-1] + self.weekday) % _WEEK - 4)
                if -len(days) <= index < len(days):
                    found.add(days[index])
        return found

    def on_year_days(self, numbers: Iterable[int]) -> set[int]:
        days = range(self.length)
        return {
            days[n - 1 if n > 0 else n]
            for n in numbers
            if (0 < n <= self.length) or (-self.length <= n < 0)
        }

    def on_weekdays(self, weekdays: Iterable[tuple[int, int]], within: Iterable[range]) -> set[int]:
        found: set[int] = set()
        for days in within:
            for number, weekday in weekdays:
                start = days.start + (weekday - self.weekday - days.start) % _WEEK
                same = range(start, days.stop, _WEEK)
                if number == 0:
                    found.update(same)
                elif -len(same) <= (index := number - 1 if number > 0 else number) < len(same):
                    found.add(same[index])
        return found

    def in_weeks(self, numbers: Iterable[int], week_start: int) -> set[int]:
        """Return the days of this calendar year in ISO-like weeks with these numbers."""
        first, count = first_week(self.year, week_start)
        wanted = {n if n > 0 else count + 1 + n for n in numbers}
        found = {
            day
            for n in wanted & set(range(1, count + 1))
            for day in range(first + (n - 1) * _WEEK, first + n * _WEEK)
            if 0 <= day < self.length
        }
        # Days at both ends may lie in the last week of the year before or in the first of the next.
        before = first_week(self.year - 1, week_start)[1]
        if before in numbers or -1 in numbers:
            found.update(range(first))
        if 1 in numbers:
            found.update(range(first + count * _WEEK, self.length))
        return found


def first_week(year: int, week_start: int) -> tuple[int, int]:
    """Return where week 1 of ``year`` starts, from 1 January, and how many weeks the year has."""
    start = _week_one(year, week_start)
    return start - day_of(date(year, 1, 1)), (_week_one(year + 1, week_start) - start) // _WEEK


def _week_one(year: int, week_start: int) -> int:
    fourth = day_of(date(year, 1, 4))  # always in week 1: the first with four days in the year
    return fourth - (weekday_of(fourth) - week_start) % _WEEK


@lru_cache(maxsize=1_024)
def new_year(year: int) -> int:
    """Return the day of 1 January, counted from 1970-01-01."""
    return day_of(date(year, 1, 1))


def weekday_of(day: int) -> int:
    """Return the weekday of a day counted from 1970-01-01, Monday 0."""
    return (day + 3) % _WEEK


class DayTables:
    """The tables of one pattern, made when first needed."""

    def __init__(self, pattern: DayPattern) -> None:
        self._pattern = pattern
        self._plain: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._tables: dict[tuple[int, ...], YearTable] = {}
        most = _MOST_DAYS[pattern.freq] * len(pattern.times)
        self._impossible = bool(pattern.positions) and min(map(abs, pattern.positions)) > most

    def get(self, year: int, phase: int) -> YearTable:
        """Return the table of ``year``, which lies ``phase`` intervals' units into the cycle."""
        first = new_year(year)
        key = (weekday_of(first), isleap(year), isleap(year - 1), phase)
        table = self._tables.get(key)
        if table is None:
            if len(self._tables) >= _MAX_TABLES:
                self._tables.clear()
            table = self._tables[key] = self._make(_Year(year), key, phase)
        return table

    def _make(self, year: _Year, key: tuple[int, ...], phase: int) -> YearTable:
        pattern = self._pattern
        if self._impossible or (pattern.freq == Freq.YEARLY and phase):
            return NO_DAYS
        if pattern.positions and pattern.freq == Freq.WEEKLY:
            return self._positioned(self._weeks(year, phase))
        days = self._plain.get(key[:3])
        if days is None:
            days = self._plain[key[:3]] = tuple(sorted(matching_days(pattern, year)))
        kept = self._on_grid(days, year, phase)
        if pattern.positions:
            return self._positioned(self._periods(kept, year))
        return YearTable(kept, _Same(pattern.times, len(kept)), len(kept) * len(pattern.times))

    def _on_grid(self, days: tuple[int, ...], year: _Year, phase: int) -> Sequence[int]:
        """Keep the days whose day, week or month is a multiple of INTERVAL from the start."""
        step, freq = self._pattern.interval, self._pattern.freq
        if step == 1 or freq == Freq.YEARLY:
            return days
        if freq == Freq.DAILY and len(days) == year.length:
            return range(-phase % step, year.length, step)
        if freq == Freq.DAILY:
            return tuple(day for day in days if (day + phase) % step == 0)
        if freq == Freq.WEEKLY:
            into = (year.weekday - self._pattern.week_start) % _WEEK
            return tuple(d for d in days if ((d + into) // _WEEK + phase) % step == 0)
        months = [m for m in range(1, 13) if (m - 1 + phase) % step == 0]
        wanted = year.in_months(months)
        return tuple(day for day in days if day in wanted)

    def _periods(self, days: Sequence[int], year: _Year) -> Iterator[Sequence[int]]:
        if self._pattern.freq == Freq.YEARLY:
            yield days
        elif self._pattern.freq == Freq.DAILY:
            yield from ((day,) for day in days)
        else:
            for month in range(12):
                low, high = year.month_starts[month : month + 2]
                yield days[bisect_left(days, low) : bisect_left(days, high)]

    def _weeks(self, year: _Year, phase: int) -> Iterator[Sequence[int]]:
        """Yield the matching days of each week that starts in ``year``, whole weeks."""
        pattern = self._pattern
        into = (year.weekday - pattern.week_start) % _WEEK
        for week, start in enumerate(range(-into, year.length, _WEEK)):
            if start < 0 or (week + phase) % pattern.interval:
                continue
            week_days = [start + (wd - pattern.week_start) % _WEEK for _, wd in pattern.weekdays]
            yield [
                day
                for day in sorted(week_days)
                if not pattern.months or date_of(year.first + day).month in pattern.months
            ]

    def _positioned(self, periods: Iterable[Sequence[int]]) -> YearTable:
        """Apply BYSETPOS to each period's days with all their times."""
        times = self._pattern.times
        chosen: dict[int, list[int]] = {}
        for days in periods:
            size = len(days) * len(times)
            picks = {p - 1 if p > 0 else size + p for p in self._pattern.positions}
            for index in sorted(pick for pick in picks if 0 <= pick < size):
                day, time = divmod(index, len(times))
                chosen.setdefault(days[day], []).append(times[time])
        total = sum(len(kept) for kept in chosen.values())
        return YearTable(tuple(chosen), tuple(map(tuple, chosen.values())), total)


class _Same(Sequence[Sequence[int]]):
    """One value, ``size`` times."""

    __slots__ = ("_size", "_value")

    def __init__(self, value: Sequence[int], size: int) -> None:
        self._value = value
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int | slice) -> Sequence[int]:  # type: ignore[override]  # never sliced
        return self._value


def matching_days(pattern: DayPattern, year: _Year) -> set[int]:
    """Return the days of ``year`` that match all parts of ``pattern``."""
    months = sorted(pattern.months) or range(1, 13)
    by_month = pattern.freq == Freq.MONTHLY or bool(pattern.months)
    within = [year.month(m) for m in months] if by_month else [range(year.length)]
    parts: list[set[int]] = []
    if pattern.month_days:
        parts.append(year.on_month_days(pattern.month_days, months))
    if pattern.weekdays:
        parts.append(year.on_weekdays(pattern.weekdays, within))
    if pattern.either and len(parts) == 2:
        parts = [parts[0] | parts[1]]
    if pattern.year_days:
        parts.append(year.on_year_days(pattern.year_days))
    if pattern.week_numbers:
        parts.append(year.in_weeks(pattern.week_numbers, pattern.week_start))
    if pattern.months or not parts:
        parts.append(year.in_months(months))
    return set.intersection(*parts)


@lru_cache(maxsize=1_024)
def tables_of(pattern: DayPattern) -> DayTables:
    """Return the tables of ``pattern``, shared by all schedules that have it."""
    return DayTables(pattern)
