"""From rules to instants: the two ways a schedule meets a time zone.

``WallTimer`` is for what people say by the clock on the wall ("every day at 02:30"). It expands
on wall time and asks each span of the zone which of its walls exist::

    gap   walls that no span has:    shifted by the size of the gap, moved to its end, or skipped
    fold  walls that two spans have: the first, the last, or both

``ElapsedTimer`` is for what people say by the stopwatch ("every 90 minutes"). It counts in
elapsed seconds and looks at the wall only to filter, so a clock change makes neither a hole nor
a repetition.

Both yield hits in ascending order, for ever if need be; nothing here looks further ahead than
400 years for the next one.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Literal, NamedTuple, Protocol, TypeAlias

from ordinaut.engine.localtime import (
    DAY,
    FIRST_INSTANT,
    HOUR,
    LAST_INSTANT,
    MAX_SHIFT,
    MINUTE,
    Span,
    Zone,
)
from ordinaut.engine.walls import DayRule, Walls
from ordinaut.model import DstFold

# Notes sort in this order: of two hits on one instant the plainest stays.
PLAIN = ""
FOLD_LAST = "dst_fold_last"
SHIFTED = "dst_shifted"
SKIPPED_DST = "skipped_dst"

GapPolicy: TypeAlias = Literal["shift", "skip", "end"]

# Jumps without a hit before a rule counts as too sparse to search: about 20 ms. A second that
# drifts through the hour (INTERVAL=3599) needs 3,600.
SEARCH_STEPS = 3_700
# Counting through a filtered rule: one for each hit, more for each jump between hits.
MAX_EFFORT_OF_COUNT = 20_000
_EFFORT_OF_JUMP = 10
_SLACK = MAX_SHIFT + 2 * HOUR
_ELAPSED_HORIZON = 100 * 366 * DAY


class Hit(NamedTuple):
    """An instant at which a rule fires, or, with a ``skipped_`` note, would have fired."""

    at: int
    note: str


class Timer(Protocol):
    """Something that fires; ``elapsed`` tells whether it counts time instead of reading clocks."""

    elapsed: bool

    def hits(self, after: int) -> Iterator[Hit]:
        """Yield the hits strictly after ``after``, ascending, each instant once."""


class WallTimer:
    """Wall times in a zone, with a policy for gaps and one for folds."""

    elapsed = False

    def __init__(
        self,
        walls: Walls,
        zone: Zone,
        *,
        gap: GapPolicy = "shift",
        fold: DstFold = "first",
    ) -> None:
        self.first = FIRST_INSTANT
        self.last = LAST_INSTANT
        self._walls = walls
        self._zone = zone
        self._gap = gap
        self._fold = fold

    def until(self, instant: int | None) -> WallTimer:
        """End the timer at ``instant``, inclusive."""
        if instant is not None:
            self.last = min(self.last, instant)
        return self

    def since(self, instant: int) -> WallTimer:
        """Begin the timer at ``instant``, inclusive."""
        self.first = max(self.first, instant)
        return self

    def hits(self, after: int) -> Iterator[Hit]:
        start = max(after + 1, self.first)
        while start <= self.last:
            span = self._zone.span(start)
            wall = next(self._walls.walls(start + span.offset - _SLACK), None)
            if wall is None:
                return
            if wall - span.offset - _SLACK >= span.end:
                start = wall - span.offset - _SLACK
                continue
            for hit in distinct(self._within(span, start)):
                if hit.at > self.last:
                    return
                yield hit
            start = span.end

    def _within(self, span: Span, start: int) -> Iterator[Hit]:
        before = self._zone.span(span.start - 1).offset
        shift = span.offset - before
        regular = self._regular(span, start, second_pass=span.start + before)
        if shift <= 0 or start >= span.start + shift:
            return regular
        return heapq.merge(self._in_gap(span, start, before), regular)

    def _regular(self, span: Span, start: int, *, second_pass: int) -> Iterator[Hit]:
        """Yield the walls that exist in ``span``; those below ``second_pass`` are repeated ones."""
        low, high = start + span.offset, span.end + span.offset
        if self._fold == "first":
            low = max(low, second_pass)
        elif self._fold == "last":
            high = min(high, span.end + self._zone.span(span.end).offset)
        for wall in self._walls.walls(low):
            if wall >= high:
                return
            yield Hit(wall - span.offset, FOLD_LAST if wall < second_pass else PLAIN)

    def _in_gap(self, span: Span, start: int, before: int) -> Iterator[Hit]:
        for wall in self._walls.walls(span.start + before):
            if wall >= span.start + span.offset:
                return
            at = span.start if self._gap == "end" else wall - before
            if at >= start:
                yield Hit(at, SKIPPED_DST if self._gap == "skip" else SHIFTED)


class WallFilter:
    """What the wall must show: days, hours, minutes, seconds; None lets everything through."""

    def __init__(
        self,
        days: DayRule | None,
        hours: Iterable[int] | None = None,
        minutes: Iterable[int] | None = None,
        seconds: Iterable[int] | None = None,
    ) -> None:
        self._days = days
        self._hours = _following(hours, 24)
        self._minutes = _following(minutes, 60)
        self._seconds = _following(seconds, 60)
        self._last_good_day: int | None = None

    def skip_to(self, wall: int) -> int | None:
        """Return ``wall`` if it passes, else the next that may, or None when none ever does."""
        day, clock = divmod(wall, DAY)
        if self._days is not None and day != self._last_good_day:
            midnight = next(self._days.walls(day * DAY), None)
            if midnight is None or midnight > wall:
                return midnight
            self._last_good_day = day
        hour, rest = divmod(clock, HOUR)
        minute, second = divmod(rest, MINUTE)
        if self._hours[hour] != hour:
            return day * DAY + self._hours[hour] * HOUR
        if self._minutes[minute] != minute:
            return day * DAY + hour * HOUR + self._minutes[minute] * MINUTE
        return wall - second + self._seconds[second]


def _following(allowed: Iterable[int] | None, size: int) -> tuple[int, ...]:
    """Return, for each value below ``size``, the first allowed one from it on, or ``size``."""
    if allowed is None:
        return tuple(range(size))
    kept = sorted(allowed)
    return tuple([*kept, size][bisect_left(kept, value)] for value in range(size))


class ElapsedTimer:
    """Every ``step`` periods of ``unit`` seconds from ``origin``, filtered by the wall clock.

    ``inside`` are the offsets of the hits in a period. With ``aligned`` a period starts where the
    wall shows a whole hour or minute, also after a clock change of half an hour.
    """

    elapsed = True

    def __init__(
        self,
        zone: Zone,
        *,
        origin: int,
        first: int,
        unit: int = 1,
        step: int = 1,
        inside: Sequence[int] = (0,),
        aligned: bool = False,
        filters: WallFilter | None = None,
    ) -> None:
        self.last = LAST_INSTANT
        self._zone = zone
        self._origin = origin
        self._first = first
        self._unit = unit
        self._step = unit * step
        self._inside = inside
        self._aligned = aligned
        self._filters = filters

    def until(self, instant: int | None) -> ElapsedTimer:
        """End the timer at ``instant``, inclusive."""
        if instant is not None:
            self.last = min(self.last, instant)
        return self

    def nth(self, number: int) -> int | None:
        """Return the ``number``-th hit, or None when finding it takes too many steps."""
        if self._is_even:
            first = self._first - self._origin - self._inside[0]
            steps = -(-first // self._step) + number - 1
            return self._origin + self._inside[0] + steps * self._step
        effort = 0
        for at in self._steps(self._first):
            number -= at is not None
            if number == 0:
                return at
            effort += 1 if at is not None else _EFFORT_OF_JUMP
            if effort > MAX_EFFORT_OF_COUNT:
                return None
        return None

    def hits(self, after: int) -> Iterator[Hit]:
        start = max(after + 1, self._first)
        end = min(self.last, start + _ELAPSED_HORIZON)
        idle = 0
        for at in self._even(start) if self._is_even else self._steps(start):
            if at is None:
                idle += 1
                if idle >= SEARCH_STEPS:
                    return
            elif at > end:
                return
            else:
                yield Hit(at, PLAIN)
                end, idle = min(self.last, at + _ELAPSED_HORIZON), 0

    @property
    def _is_even(self) -> bool:
        """Whether the hits are the same distance apart, for ever."""
        return self._filters is None and not self._aligned and len(self._inside) == 1

    def _even(self, start: int) -> Iterator[int]:
        """Yield the hits from ``start`` on, as :meth:`_steps` would, without asking the zone."""
        first = start + (self._origin + self._inside[0] - start) % self._step
        return count(first, self._step)

    def _steps(self, start: int) -> Iterator[int | None]:
        """Yield the hits from ``start`` on, and None for each jump that found none."""
        while start <= LAST_INSTANT:
            span = self._zone.span(start)
            base = self._base(span.offset)
            asked = period = start - (start - base) % self._step
            while period < span.end:
                asked, wall = period, period + span.offset
                target = self._filters.skip_to(wall) if self._filters else wall
                if target is None:
                    return
                if target > wall:
                    yield None
                    period = base - (base + span.offset - target) // self._step * self._step
                    continue
                for inside in self._inside:
                    if start <= period + inside < span.end:
                        yield period + inside
                period += self._step
            if period - start > _ELAPSED_HORIZON:
                return
            yield None
            # The clock may go back over what was passed, but never by more than a day.
            start = span.end if span.end - asked < 2 * _SLACK else max(span.end, period - _SLACK)

    def _base(self, offset: int) -> int:
        """Return where the grid of periods lies while the wall is ``offset`` from UTC."""
        if not self._aligned:
            return self._origin
        return self._origin - (self._origin + offset) % self._unit


def distinct(hits: Iterable[Hit]) -> Iterator[Hit]:
    """Keep one hit for each instant, the one with the plainest note."""
    last = None
    for hit in hits:
        if hit.at != last:
            last = hit.at
            yield hit
