"""Schedules: an instant goes in, occurrences come out. The public face of the time engine.

Pure: nothing here reads a clock. Occurrences are strictly increasing UTC instants; ``next`` is
strictly after its argument, and ``starts_at`` and ``ends_at`` are inclusive. The next occurrence
is looked for within 400 years, the cycle of the calendar; a schedule without one is finished.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from ordinaut.engine import cron, mistakes, rrule_text, rruler
from ordinaut.engine.calendar import Calendar
from ordinaut.engine.duration import parse_duration
from ordinaut.engine.excluding import MOVED, ExcludingTimer
from ordinaut.engine.expression import ExpressionError, parse_expression
from ordinaut.engine.localtime import (
    DAY,
    EPOCH,
    FIRST_INSTANT,
    LAST_INSTANT,
    Zone,
    parse_time,
    shown,
    to_instant,
    to_utc,
    utc,
    wall_of,
    zone,
)
from ordinaut.engine.rrule_parts import refused
from ordinaut.engine.timers import (
    FOLD_LAST,
    SHIFTED,
    SKIPPED_DST,
    ElapsedTimer,
    Hit,
    Timer,
    WallTimer,
)
from ordinaut.engine.walls import WallList
from ordinaut.errors import InvalidSchedule
from ordinaut.model import Schedule, Verdict

# What `Occurrence.note` can say, beside "" for an ordinary one.
NOTE_SHIFTED = SHIFTED  # its local time does not exist that day; it comes after the gap
NOTE_FOLD_LAST = FOLD_LAST  # its local time exists twice that day; this is the second
NOTE_MOVED = MOVED  # its day is excluded by a calendar; it comes on a neighbouring day

UNCLOCKED = ("event", "condition")
MAX_EXPRESSION = 8_192

_NO_CALENDARS: Mapping[str, Calendar] = MappingProxyType({})
_MICROSECOND = timedelta(microseconds=1)
# Room for the searches of a day or a week before the first instant.
_EARLIEST = FIRST_INSTANT + 366 * DAY
_EARLIEST_TIME = to_utc(_EARLIEST)
_LAST = timedelta(seconds=LAST_INSTANT + 1) - _MICROSECOND
_TOPIC = re.compile(r"(?:\*|[A-Za-z0-9_-]+)(?:\.(?:\*|[A-Za-z0-9_-]+))*")


class Occurrence(NamedTuple):
    """One firing: the instant in UTC, and what the clock shows then in the schedule's zone."""

    at: datetime
    local: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One occurrence that a calendar or ``dst_gap: skip`` took away."""

    at: datetime
    local: datetime
    verdict: Verdict
    reason: str


class CompiledSchedule:
    """A schedule that was understood. Get it with :func:`compile_schedule`."""

    def __init__(
        self,
        timer: Timer,
        zone: Zone,
        *,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        fraction: timedelta = timedelta(0),
        excluding: ExcludingTimer | None = None,
    ) -> None:
        self._timer = timer
        self._zone = zone
        self._fraction = fraction
        self._excluding = excluding
        self._before = _EARLIEST if starts_at is None else self._floor(starts_at - _MICROSECOND)
        self._last = LAST_INSTANT if ends_at is None else self._floor(ends_at)

    def next(self, after: datetime) -> Occurrence | None:
        """Return the first occurrence strictly after ``after``, or None when none follows."""
        return next(self.iterate(after), None)

    def between(self, after: datetime, until: datetime, *, limit: int) -> list[Occurrence]:
        """Return the occurrences in ``(after, until]``, the first ``limit`` of them."""
        found = takewhile(lambda occurrence: occurrence.at <= until, self.iterate(after))
        return list(islice(found, limit))

    def iterate(self, after: datetime) -> Iterator[Occurrence]:
        """Yield the occurrences strictly after ``after``, for ever if need be."""
        timer = self._excluding or self._timer
        for hit in timer.hits(max(self._floor(after), self._before)):
            if hit.at > self._last:
                return
            if hit.note != SKIPPED_DST:
                at = self._utc(hit)
                yield Occurrence(at, at.astimezone(self._zone.info), hit.note)

    def excluded_between(self, after: datetime, until: datetime, *, limit: int) -> list[Exclusion]:
        """Return what was taken away in ``(after, until]``, the first ``limit`` of them."""
        return list(islice(self._excluded(after, until), limit))

    def _excluded(self, after: datetime, until: datetime) -> Iterator[Exclusion]:
        last = min(self._last, self._floor(until))
        for hit in self._timer.hits(max(self._floor(after), self._before)):
            if hit.at > last:
                return
            found = self._verdict(hit)
            if found is not None:
                at = self._utc(hit)
                yield Exclusion(at, at.astimezone(self._zone.info), *found)

    def _verdict(self, hit: Hit) -> tuple[Verdict, str] | None:
        if hit.note == SKIPPED_DST:
            return "skipped_dst", self._missing_time(hit.at)
        reason = self._excluding.reason_against(hit) if self._excluding else None
        return ("skipped_calendar", reason) if reason else None

    def _missing_time(self, at: int) -> str:
        before = self._zone.offset(self._zone.span(at).start - 1)
        missing = to_utc(at + before)
        return f"{missing:%H:%M:%S} does not exist on {missing:%Y-%m-%d} in {self._zone.name}"

    def _utc(self, hit: Hit) -> datetime:
        return to_utc(hit.at) + self._fraction

    def _floor(self, moment: datetime) -> int:
        return to_instant(max(moment, _EARLIEST_TIME) - self._fraction)


class _Never:
    """The timer of what no clock starts: events and conditions."""

    elapsed = True

    def hits(self, after: int) -> Iterator[Hit]:
        return iter(())


@dataclass(frozen=True, slots=True)
class _Timing:
    """A timer, and the part of a second that all its hits have."""

    timer: Timer
    fraction: timedelta = timedelta(0)


def compile_schedule(
    schedule: Schedule, *, calendars: Mapping[str, Calendar] = _NO_CALENDARS
) -> CompiledSchedule:
    """Understand a schedule; raise InvalidSchedule with the field, what is wrong and what is right.

    ``calendars`` holds at least those that the schedule excludes.
    """
    missing = [name for name in schedule.exclude if name not in calendars]
    if missing:
        raise InvalidSchedule.at("exclude", f"there is no calendar {shown(missing[0])}")
    return _compile(schedule, tuple(calendars[name] for name in schedule.exclude))


def preview(
    schedule: Schedule,
    *,
    after: datetime,
    count: int,
    calendars: Mapping[str, Calendar] = _NO_CALENDARS,
) -> tuple[list[Occurrence], bool]:
    """Return the next ``count`` occurrences, and whether no more follow them.

    When events and conditions start a task nobody knows: there are none to show, and it is
    finished only after its ``ends_at``.
    """
    compiled = compile_schedule(schedule, calendars=calendars)
    if schedule.kind in UNCLOCKED:
        return [], schedule.ends_at is not None and after >= schedule.ends_at
    found = list(islice(compiled.iterate(after), count + 1))
    return found[:count], len(found) <= count


def jitter(task_id: UUID, at: datetime, seconds: int) -> timedelta:
    """Return the delay of one occurrence, from 0 to ``seconds``, the same whenever asked."""
    key = task_id.bytes + to_instant(at).to_bytes(8, "big", signed=True)
    number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    return timedelta(milliseconds=number % (seconds * 1_000 + 1))


def interval_after(schedule: Schedule, after: datetime) -> datetime | None:
    """Return what ``next`` of a compiled interval does, by arithmetic: most have only one task.

    Raises InvalidSchedule for an expression that is no interval, and looks at no calendar.
    """
    origin = (schedule.starts_at or schedule.anchor) - EPOCH
    step = timedelta(seconds=parse_duration(schedule.expr))
    # From UTC: two times of one other zone would be subtracted by what its clocks show.
    passed = after - EPOCH
    if passed < origin:
        passed = origin if schedule.starts_at is None else origin - step
    at = passed + step - (passed - origin) % step
    last = _LAST if schedule.ends_at is None else min(schedule.ends_at - EPOCH, _LAST)
    return EPOCH + at if at <= last else None


def event_topic(expr: str) -> tuple[str, str | None]:
    """Split the expression of kind ``event`` into its topic and its JMESPath filter, if any."""
    topic, _, condition = expr.strip().partition(" ")
    if not _TOPIC.fullmatch(topic):
        raise refused(
            f"{shown(topic)} is not a topic; write words of letters, digits, - and _ with dots "
            "between them, * for any one word: orders.*.created"
        )
    return topic, _jmespath(condition.strip()) if condition.strip() else None


@lru_cache(maxsize=4_096)
def _compile(schedule: Schedule, calendars: tuple[Calendar, ...]) -> CompiledSchedule:
    _check_text(schedule.expr)
    _check_bounds(schedule)
    local = zone(schedule.timezone)
    try:
        timing = _timing(schedule, local)
    except InvalidSchedule as error:
        raise mistakes.helped(error, schedule) from None
    clocked = schedule.kind not in UNCLOCKED
    if clocked and _is_empty(schedule, timing.timer):
        raise refused(f"{shown(schedule.expr)} can never fire: no time matches it")
    return CompiledSchedule(
        timing.timer,
        local,
        starts_at=schedule.starts_at and max(schedule.starts_at, _EARLIEST_TIME),
        ends_at=schedule.ends_at,
        fraction=timing.fraction,
        excluding=_excluding(schedule, timing.timer, local, calendars if clocked else ()),
    )


def _is_empty(schedule: Schedule, timer: Timer) -> bool:
    # Only cron has no beginning; what matches nowhere after the creation matches nowhere.
    start = to_instant(schedule.anchor) if schedule.kind == "cron" else _EARLIEST
    return next(timer.hits(start), None) is None


def _timing(schedule: Schedule, local: Zone) -> _Timing:
    dst = rruler.Dst(schedule.dst_gap, schedule.dst_fold)
    match schedule.kind:
        case "rrule":
            found = rrule_text.parse(schedule.expr)
            return _Timing(
                rruler.timer(
                    found, local, starts_at=schedule.starts_at, anchor=schedule.anchor, dst=dst
                )
            )
        case "cron":
            return _Timing(cron.timer(cron.parse(schedule.expr), local, gap=dst.gap, fold=dst.fold))
        case "interval":
            return _interval(schedule)
        case "once":
            return _once(schedule, local)
        case "event":
            event_topic(schedule.expr)
        case "condition":
            _jmespath(schedule.expr)
    return _Timing(_Never())


def _interval(schedule: Schedule) -> _Timing:
    step = parse_duration(schedule.expr)
    origin = schedule.starts_at or schedule.anchor
    at = to_instant(origin)
    first = at if schedule.starts_at else at + 1
    timer = ElapsedTimer(utc(), origin=at, first=first, step=step)
    return _Timing(timer, timedelta(microseconds=origin.microsecond))


def _once(schedule: Schedule, local: Zone) -> _Timing:
    moment = parse_time(schedule.expr)
    fraction = timedelta(microseconds=moment.microsecond)
    if moment.tzinfo is not None:
        return _Timing(WallTimer(WallList((to_instant(moment),)), utc()), fraction)
    wall = wall_of(moment)
    if schedule.dst_gap == "skip" and not local.instants(wall):
        raise refused(f"{shown(schedule.expr)} does not exist in {local.name}: the clock skips it")
    timer = WallTimer(WallList((wall,)), local, gap=schedule.dst_gap, fold=schedule.dst_fold)
    return _Timing(timer, fraction)


def _excluding(
    schedule: Schedule, timer: Timer, local: Zone, calendars: tuple[Calendar, ...]
) -> ExcludingTimer | None:
    if not calendars:
        return None
    if schedule.on_excluded != "skip" and timer.elapsed:
        raise InvalidSchedule.at(
            "on_excluded",
            f'"{schedule.on_excluded}" keeps the time of day, which a schedule that counts '
            'elapsed time does not have; use "skip"',
        )
    excluding = ExcludingTimer(timer, local, calendars=calendars, policy=schedule.on_excluded)
    if _is_empty(schedule, excluding):
        raise InvalidSchedule.at("exclude", "every occurrence falls on an excluded day")
    return excluding


def _check_text(expr: str) -> None:
    if len(expr) > MAX_EXPRESSION:
        raise refused(f"the expression has {len(expr)} characters; {MAX_EXPRESSION} are allowed")
    if not expr.strip():
        raise refused("the expression is empty")
    if expr.isprintable():
        return
    for position, character in enumerate(expr):
        if character not in "\r\n\t" and unicodedata.category(character) == "Cc":
            raise refused(f"there is a control character at position {position}")


def _check_bounds(schedule: Schedule) -> None:
    starts_at, ends_at, anchor = schedule.starts_at, schedule.ends_at, schedule.anchor
    for name, moment in (("starts_at", starts_at), ("ends_at", ends_at), ("anchor", anchor)):
        if moment is not None and moment.tzinfo is None:
            raise InvalidSchedule.at(name, f"{name} needs an offset, such as Z or +02:00")
    if starts_at and ends_at and ends_at < starts_at:
        raise InvalidSchedule.at("ends_at", "ends_at lies before starts_at")


def _jmespath(expr: str) -> str:
    try:
        parse_expression(expr)
    except ExpressionError as error:
        text = f"{error.message} (at position {error.position})"
        raise refused(f"{shown(expr)} is not JMESPath: {text}") from None
    return expr
