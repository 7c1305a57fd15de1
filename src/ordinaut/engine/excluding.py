"""A timer that keeps off the days of calendars: it skips its hits there, or moves them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from ordinaut.engine.calendar import Calendar
from ordinaut.engine.localtime import DAY, FIRST_INSTANT, Zone
from ordinaut.engine.timers import SKIPPED_DST, Hit, Timer, distinct
from ordinaut.model import OnExcluded

MOVED = "moved_from_calendar"

# More excluded days or occurrences in a row than this, and the schedule counts as finished.
_MAX_DAYS_IN_A_ROW = 3_660
_MAX_EXCLUDED_IN_A_ROW = 1_000


class ExcludingTimer:
    """A timer without the days of some calendars, or with its hits on them moved."""

    elapsed = False

    def __init__(
        self, timer: Timer, zone: Zone, *, calendars: Iterable[Calendar], policy: OnExcluded
    ) -> None:
        self._timer = timer
        self._zone = zone
        self._calendars = tuple(calendars)
        self._step = {"skip": 0, "next": 1, "previous": -1}[policy]

    def hits(self, after: int) -> Iterator[Hit]:
        return self._moved(after) if self._step else self._kept(after)

    def reason_against(self, hit: Hit) -> str | None:
        """Return why a hit of the timer within falls away, or None when it stays or moves."""
        day = self._day(hit.at)
        reason = self._reason(day)
        return reason if not self._step or self._landing(day) is None else None

    def _kept(self, after: int) -> Iterator[Hit]:
        excluded = 0
        while excluded < _MAX_EXCLUDED_IN_A_ROW:
            for hit in self._timer.hits(after):
                day = self._day(hit.at)
                if self._reason(day) is not None:
                    break
                excluded = 0
                yield hit
            else:
                return
            free = self._free_day(day, 1)
            if free is None:
                return
            excluded += 1
            after = max(hit.at, self._zone.resolve(free * DAY) - 1)

    def _moved(self, after: int) -> Iterator[Hit]:
        day = self._day(after + 1)
        while self._step > 0 and self._reason(day - 1) is not None:
            day -= 1
            if day * DAY <= FIRST_INSTANT:
                break
        unmovable = 0
        start = min(after, self._zone.resolve(day * DAY) - 1)
        for landing, hits in groupby(self._timer.hits(start), self._landing_of):
            if landing is None:
                unmovable += 1
                if unmovable > _MAX_EXCLUDED_IN_A_ROW:
                    return
                continue
            for hit in distinct(sorted(self._land(hit, landing) for hit in hits)):
                if hit.at > after:
                    yield hit

    def _land(self, hit: Hit, day: int) -> Hit:
        wall = hit.at + self._zone.offset(hit.at)
        if wall // DAY == day or hit.note == SKIPPED_DST:
            return hit
        return Hit(self._zone.resolve(day * DAY + wall % DAY), MOVED)

    def _landing_of(self, hit: Hit) -> int | None:
        return self._landing(self._day(hit.at))

    def _landing(self, day: int) -> int | None:
        return self._free_day(day, self._step) if self._reason(day) is not None else day

    def _free_day(self, day: int, step: int) -> int | None:
        """Return the nearest day after (or before) ``day`` that no calendar excludes."""
        for free in range(day + step, day + step * _MAX_DAYS_IN_A_ROW, step):
            if self._reason(free) is None:
                return free
        return None

    def _reason(self, day: int) -> str | None:
        for calendar in self._calendars:
            label = calendar.reason_at(day)
            if label is not None:
                return f'calendar "{calendar.name}": {label}'
        return None

    def _day(self, at: int) -> int:
        return (at + self._zone.offset(at)) // DAY
