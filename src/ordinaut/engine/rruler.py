"""RFC 5545 recurrence sets as timers.

The set is every RRULE and RDATE, without what EXRULE and EXDATE name. Where the RFC leaves room:

- DTSTART counts as an occurrence when it matches a rule, and when there is no rule at all.
- A bare rule (no DTSTART) starts at ``starts_at``, or strictly after the task's creation. Parts
  it leaves out come from ``starts_at``; without one the day comes from the creation and the time
  is the start of the period: 00:00:00 for DAILY and coarser, the full hour for HOURLY …
- UNTIL as a date includes that whole day. EXDATE as a date removes that whole day.
- DAILY and coarser follow the clock on the wall; HOURLY and finer count elapsed time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile

from ordinaut.engine.days import DayPattern, DayTimes, Freq
from ordinaut.engine.localtime import (
    DAY,
    HOUR,
    MAX_SHIFT,
    MINUTE,
    Zone,
    to_instant,
    to_utc,
    utc,
    zone,
)
from ordinaut.engine.rrule_parts import Rule, Stamp, refused
from ordinaut.engine.rrule_text import Recurrence
from ordinaut.engine.timers import ElapsedTimer, Hit, Timer, WallFilter, WallTimer, distinct
from ordinaut.engine.walls import DayRule, WallList
from ordinaut.model import DstFold, DstGap

_UNITS = {Freq.HOURLY: HOUR, Freq.MINUTELY: MINUTE, Freq.SECONDLY: 1}
# What may be spent on the way to the next hit that nothing excludes, in about 2 µs each. It is
# enough for a weekend of minutes or an hour of seconds; what needs more is refused.
_BUDGET = 24_000
_REMOVED, _EXCLUDED, _STEP, _SEEK, _FAR = 1, 5, 3, 20, 60
_PATIENCE = 16  # steps of what excludes before it is asked anew from a later instant


@dataclass(frozen=True, slots=True)
class Start:
    """Where the rules of a set begin: an instant, what the wall shows then, and the first allowed.

    ``written`` marks a DTSTART, ``created`` a task's creation, whose time of day means nothing.
    """

    zone: Zone
    at: int
    wall: int
    first_at: int
    written: bool = False
    created: bool = False

    @property
    def unsteady(self) -> bool:
        """Tell whether the clock changes so near that walls and instants differ in order."""
        around = self.zone.offset(self.at - MAX_SHIFT), self.zone.offset(self.at + MAX_SHIFT)
        return not self.written and around[0] != around[1]

    @property
    def first_wall(self) -> int:
        return self.wall + (self.first_at - self.at)


@dataclass(frozen=True, slots=True)
class Dst:
    """What happens to wall times in a gap and in a fold."""

    gap: DstGap = "shift"
    fold: DstFold = "first"


def timer(
    found: Recurrence,
    local: Zone,
    *,
    starts_at: datetime | None,
    anchor: datetime,
    dst: Dst,
) -> Timer:
    """Return the timer of a recurrence set; ``local`` is the zone of times without one."""
    start = start_of(found, local, starts_at, anchor)
    extra = found.extra if found.rules or found.start is None else (*found.extra, found.start)
    including = [_rule_timer(rule, start, dst) for rule in found.rules]
    including += _list_timers(extra, start.zone, dst)
    excluding = [_rule_timer(rule, start, dst) for rule in found.without]
    if len(including) == 1 and not excluding and not found.removed:
        return including[0]
    return _Set(including, excluding, _removed(found.removed, start.zone), start.zone)


def start_of(found: Recurrence, local: Zone, starts_at: datetime | None, anchor: datetime) -> Start:
    """Return where the rules of a set begin: DTSTART, else ``starts_at``, else ``anchor``."""
    if found.start is not None:
        where = _zone_of(found.start, local)
        at = where.resolve(found.start.wall)
        return Start(where, at, found.start.wall, at, written=True)
    moment = starts_at or anchor
    at = to_instant(moment)
    first = at + 1 if starts_at is None or moment.microsecond else at
    return Start(local, at, at + local.offset(at), first, created=starts_at is None)


def _zone_of(stamp: Stamp, local: Zone) -> Zone:
    if stamp.utc:
        return utc()
    return zone(stamp.zone, path="schedule_expr") if stamp.zone else local


def pattern_of(rule: Rule, start: Start) -> DayPattern:
    """Return a rule's days and times; the times only of DAILY and coarser."""
    clock = defaults_of(rule, start)
    coarse = rule.freq not in _UNITS
    pattern = DayPattern(
        freq=rule.freq if coarse else Freq.DAILY,
        interval=rule.interval if coarse else 1,
        week_start=rule.week_start,
        months=frozenset(rule.months),
        month_days=frozenset(rule.month_days),
        year_days=frozenset(rule.year_days),
        week_numbers=frozenset(rule.week_numbers),
        weekdays=frozenset(rule.weekdays),
    )
    if not coarse:
        return pattern
    times = DayTimes(
        rule.hours or (clock.hour,),
        rule.minutes or (clock.minute,),
        rule.seconds or (clock.second,),
    )
    return replace(_with_days(pattern, clock), times=times, positions=rule.positions)


def _rule_timer(rule: Rule, start: Start, dst: Dst) -> Timer:
    if rule.freq in _UNITS:
        return _elapsed(rule, start)
    walls = _day_rule(pattern_of(rule, start), rule.count, start, dst)
    at, wall = _until(rule)
    timer = WallTimer(walls.until(wall), start.zone, gap=dst.gap, fold=dst.fold).until(at)
    return timer if start.written else timer.since(start.first_at)


def _day_rule(pattern: DayPattern, count: int | None, start: Start, dst: Dst) -> DayRule:
    first = start.first_wall
    if start.unsteady:
        # A wall before this one may still come: shifted by a gap, or as the second in a fold.
        first -= 2 * DAY
        if count is not None:
            walls = DayRule(pattern, first, anchor=start.wall).walls(first)
            near = takewhile(lambda wall: wall < start.first_wall + DAY, walls)
            count += sum(_has_passed(wall, start, dst) for wall in near)
    return DayRule(pattern, first, anchor=start.wall, count=count)


def _has_passed(wall: int, start: Start, dst: Dst) -> bool:
    one = WallTimer(WallList((wall,)), start.zone, gap=dst.gap, fold=dst.fold)
    return next(one.hits(start.first_at - 1), None) is None


def defaults_of(rule: Rule, start: Start) -> datetime:
    """Return the wall clock that parts which the rule leaves out are taken from."""
    wall = start.wall
    if start.created:
        wall -= wall % _UNITS.get(rule.freq, DAY)
    return to_utc(wall)


def _with_days(pattern: DayPattern, start: datetime) -> DayPattern:
    if pattern.month_days or pattern.weekdays or pattern.year_days or pattern.week_numbers:
        return pattern
    if pattern.freq == Freq.WEEKLY:
        return replace(pattern, weekdays=frozenset({(0, start.weekday())}))
    if pattern.freq == Freq.DAILY:
        return pattern
    if pattern.freq == Freq.YEARLY and not pattern.months:
        pattern = replace(pattern, months=frozenset({start.month}))
    return replace(pattern, month_days=frozenset({start.day}))


def _elapsed(rule: Rule, start: Start) -> ElapsedTimer:
    unit = _UNITS[rule.freq]
    inside = _inside(rule, defaults_of(rule, start))
    aligned = bool(rule.minutes if rule.freq == Freq.HOURLY else rule.seconds) and unit > 1
    if not inside:
        raise refused("this rule can never fire: BYSETPOS points outside its set")
    timer = ElapsedTimer(
        start.zone,
        origin=start.at - start.wall % unit,
        first=start.first_at,
        unit=unit,
        step=rule.interval,
        inside=inside,
        aligned=aligned,
        filters=_filters(rule, start),
    )
    at, wall = _until(rule)
    if wall is not None:
        at = max([*start.zone.instants(wall), start.zone.resolve(wall)])
    if rule.count is not None:
        at = timer.nth(rule.count)
        if at is None and next(timer.hits(start.first_at - 1), None) is not None:
            raise refused(
                f"COUNT={rule.count} takes too long to count with BY parts and "
                f"FREQ={rule.freq.name}; use UNTIL"
            )
    return timer.until(at)


def _inside(rule: Rule, shown_at_start: datetime) -> tuple[int, ...]:
    """Return where in its hour, minute or second the rule fires, after BYSETPOS."""
    minutes = rule.minutes or (shown_at_start.minute,) if rule.freq == Freq.HOURLY else (0,)
    seconds = rule.seconds or (shown_at_start.second,) if rule.freq != Freq.SECONDLY else (0,)
    full = DayTimes((0,), minutes, seconds)
    if not rule.positions:
        return tuple(full)
    picks = {p - 1 if p > 0 else len(full) + p for p in rule.positions}
    return tuple(full[pick] for pick in sorted(picks) if 0 <= pick < len(full))


def _filters(rule: Rule, start: Start) -> WallFilter | None:
    minutes = rule.minutes if rule.freq != Freq.HOURLY else ()
    seconds = rule.seconds if rule.freq == Freq.SECONDLY else ()
    by_day = rule.months or rule.month_days or rule.year_days or rule.weekdays
    days = DayRule.always(pattern_of(rule, start)) if by_day else None
    if not (days or rule.hours or minutes or seconds):
        return None
    return WallFilter(days, rule.hours or None, minutes or None, seconds or None)


def _until(rule: Rule) -> tuple[int | None, int | None]:
    """Return UNTIL as an instant or as a wall time, whichever it is."""
    if rule.until is None:
        return None, None
    if rule.until.utc:
        return rule.until.wall, None
    return None, rule.until.wall + (DAY - 1 if rule.until.is_date else 0)


def _list_timers(stamps: Iterable[Stamp], local: Zone, dst: Dst) -> list[Timer]:
    walls: dict[Zone, set[int]] = {}
    for stamp in stamps:
        walls.setdefault(_zone_of(stamp, local), set()).add(stamp.wall)
    return [
        WallTimer(WallList(tuple(sorted(given))), where, gap=dst.gap, fold=dst.fold)
        for where, given in walls.items()
    ]


def _removed(stamps: Iterable[Stamp], local: Zone) -> tuple[frozenset[int], frozenset[int]]:
    """Return what EXDATE removes: instants, and whole days."""
    instants: set[int] = set()
    for stamp in stamps:
        where = _zone_of(stamp, local)
        if not stamp.is_date:
            instants.update(where.instants(stamp.wall) or {where.resolve(stamp.wall)})
    return frozenset(instants), frozenset(s.wall // DAY for s in stamps if s.is_date)


class _Set:
    """Several timers as one, without what others and dates remove."""

    def __init__(
        self,
        including: list[Timer],
        excluding: list[Timer],
        removed: tuple[frozenset[int], frozenset[int]],
        local: Zone,
    ) -> None:
        self.elapsed = any(timer.elapsed for timer in including)
        self._including = including
        self._excluding = excluding
        self._instants, self._days = removed
        self._zone = local

    def hits(self, after: int) -> Iterator[Hit]:
        """Yield what is left; raise :class:`InvalidSchedule` where that takes too long to find."""
        against = [_Against(timer, after) for timer in self._excluding]
        spent, last = 0, after
        for hit in distinct(heapq.merge(*(timer.hits(after) for timer in self._including))):
            if self._is_removed(hit.at):
                spent += _REMOVED
            elif any(one.names(hit.at) for one in against):
                spent += _EXCLUDED + (_FAR if hit.at - last > DAY else 0)
            else:
                spent, last = 0, hit.at
                yield hit
                continue
            spent += sum(one.spent() for one in against)
            last = hit.at
            if spent > _BUDGET:
                # Not the end: to say so would complete a task that has more to do.
                raise refused(
                    "this can never fire, or not before EXRULE and EXDATE have taken away "
                    "thousands of occurrences in a row; say what is left by BYHOUR, BYDAY and "
                    "the like in the RRULE itself"
                )

    def _is_removed(self, at: int) -> bool:
        if at in self._instants:
            return True
        return bool(self._days) and (at + self._zone.offset(at)) // DAY in self._days


class _Against:
    """A timer that excludes, asked about one instant after the other."""

    def __init__(self, timer: Timer, after: int) -> None:
        self._timer = timer
        self._hits = timer.hits(after)
        self._next = next(self._hits, None)
        self._spent = 0

    def names(self, at: int) -> bool:
        """Tell whether the timer fires at ``at``, which is not before the last that was asked."""
        steps = 0
        while self._next is not None and self._next.at < at:
            steps += 1
            if steps > _PATIENCE:
                self._hits = self._timer.hits(at - 1)
                self._spent += _SEEK
            self._next = next(self._hits, None)
        self._spent += steps * _STEP
        return self._next is not None and self._next.at == at

    def spent(self) -> int:
        """Return what was spent since this was asked last."""
        spent, self._spent = self._spent, 0
        return spent
