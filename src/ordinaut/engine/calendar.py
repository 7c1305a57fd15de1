"""Calendars: named sets of days on which a task that excludes them does not run.

A calendar is given as dates, ranges of dates, weekdays, iCalendar text and the public holidays
of a country, in any combination. Days are local days in the zone of the schedule that excludes
them. Public holidays come from the library ``holidays``, which is not installed by default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache

from ordinaut.engine import rrule_text, rruler
from ordinaut.engine.days import Freq, new_year, weekday_of
from ordinaut.engine.localtime import (
    DAY,
    date_of,
    day_of,
    shown,
    utc,
)
from ordinaut.engine.rrule_parts import WEEKDAYS, Stamp
from ordinaut.engine.timers import Timer
from ordinaut.errors import InvalidSchedule
from ordinaut.model import Json

try:
    import holidays
except ImportError:
    holidays = None

MAX_ICS_CHARACTERS = 1_048_576
MAX_EVENTS = 10_000
_YEAR_OF_TRIAL = 2027

WEEKDAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_EVENT_LINE = re.compile(r"(DTSTART|DTEND|DURATION|RRULE|RDATE|EXDATE|SUMMARY|STATUS)([;:].*)")
_DAYS_LONG = re.compile(r"P(?:(\d{1,3})W|(\d{1,4})D)(?:T.*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Event:
    """One VEVENT: the days it starts on, how many days it lasts, what it is called."""

    timer: Timer
    length: int
    summary: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """A named set of days. Weekdays count from Monday 0; ranges include both ends."""

    name: str
    dates: frozenset[date] = frozenset()
    ranges: tuple[tuple[date, date], ...] = ()
    weekdays: frozenset[int] = frozenset()
    ics: str = ""
    country: str = ""
    subdivision: str = ""
    _years: dict[int, dict[int, str]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def reason(self, day: date) -> str | None:
        """Return why ``day`` belongs to the calendar, or None when it does not."""
        return self.reason_at(day_of(day))

    def reason_at(self, day: int) -> str | None:
        """Return the same for a day counted from 1970-01-01."""
        if (weekday := weekday_of(day)) in self.weekdays:
            return WEEKDAY_NAMES[weekday]
        year = date_of(day).year
        days = self._years.get(year)
        if days is None:
            days = self._years[year] = self._days_of(year)
        return days.get(day)

    def _days_of(self, year: int) -> dict[int, str]:
        first, end = new_year(year), new_year(year + 1)
        found: dict[int, str] = {}
        if self.country:
            public = _public_holidays(self.country, self.subdivision, year)
            found.update({day_of(day): name for day, name in public.items()})
        for event in _events(self.ics):
            for start in _starts(event, first, end):
                for day in range(max(start, first), min(start + event.length, end)):
                    found.setdefault(day, event.summary)
        for low, high in self.ranges:
            for day in range(max(day_of(low), first), min(day_of(high) + 1, end)):
                found[day] = f"{low} to {high}"
        found.update({day_of(day): str(day) for day in self.dates if day.year == year})
        return found


def _starts(event: _Event, first: int, end: int) -> Iterator[int]:
    for hit in event.timer.hits((first - event.length + 1) * DAY - 1):
        if hit.at >= end * DAY:
            return
        yield hit.at // DAY


def parse_calendar(name: str, definition: Json) -> Calendar:
    """Read ``{"dates", "ranges": [{"from", "to"}], "weekdays", "ics", "country", "subdivision"}``.

    Raises InvalidSchedule with a path such as ``dates[3]``.
    """
    if not isinstance(definition, Mapping):
        raise InvalidSchedule.at("definition", "a calendar is an object")
    known = ("dates", "ranges", "weekdays", "ics", "country", "subdivision")
    for key in definition:
        if key not in known:
            raise InvalidSchedule.at(shown(str(key))[1:-1], f"known are {', '.join(known)}")
    calendar = Calendar(
        name=name,
        dates=frozenset(_date(item, path) for path, item in _items(definition, "dates")),
        ranges=tuple(_range(item, path) for path, item in _items(definition, "ranges")),
        weekdays=frozenset(_weekday(item, path) for path, item in _items(definition, "weekdays")),
        ics=_text(definition, "ics"),
        country=_text(definition, "country"),
        subdivision=_text(definition, "subdivision"),
    )
    if len(calendar.weekdays) == len(WEEKDAYS):
        raise InvalidSchedule.at("weekdays", "all seven days are excluded; nothing could ever run")
    _events(calendar.ics)
    if calendar.country or calendar.subdivision:
        _public_holidays(calendar.country, calendar.subdivision, _YEAR_OF_TRIAL)
    return calendar


def _items(definition: Mapping[str, Json], key: str) -> list[tuple[str, Json]]:
    items = definition.get(key, [])
    if not isinstance(items, list) or len(items) > MAX_EVENTS:
        raise InvalidSchedule.at(key, f"{key} is a list of at most {MAX_EVENTS}")
    return [(f"{key}[{index}]", item) for index, item in enumerate(items)]


def _date(item: Json, path: str) -> date:
    if isinstance(item, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", item):
        try:
            return date.fromisoformat(item)
        except ValueError as error:
            raise InvalidSchedule.at(path, f"{shown(item)} is not a date: {error}") from None
    raise InvalidSchedule.at(path, f"{shown(str(item))} is not a date; write it like 2027-01-01")


def _range(item: Json, path: str) -> tuple[date, date]:
    if not isinstance(item, Mapping) or set(item) != {"from", "to"}:
        raise InvalidSchedule.at(path, 'a range is {"from": "2027-12-24", "to": "2028-01-02"}')
    low, high = _date(item["from"], f"{path}.from"), _date(item["to"], f"{path}.to")
    if high < low:
        raise InvalidSchedule.at(path, f"the range ends ({high}) before it begins ({low})")
    return low, high


def _weekday(item: Json, path: str) -> int:
    names = [name.upper() for name in WEEKDAY_NAMES]
    word = item.strip().upper() if isinstance(item, str) else ""
    matches = [index for index, name in enumerate(names) if len(word) > 1 and name.startswith(word)]
    if not matches:
        raise InvalidSchedule.at(path, f"{shown(str(item))} is not one of {', '.join(WEEKDAYS)}")
    return matches[0]


def _text(definition: Mapping[str, Json], key: str) -> str:
    text = definition.get(key, "")
    if not isinstance(text, str) or len(text) > MAX_ICS_CHARACTERS:
        raise InvalidSchedule.at(key, f"{key} is text of at most {MAX_ICS_CHARACTERS} characters")
    return text


def _public_holidays(country: str, subdivision: str, year: int) -> Mapping[date, str]:
    if holidays is None:
        raise InvalidSchedule.at(
            "country",
            "public holidays by country need the library holidays, which is not installed here "
            "(pip install 'ordinaut[holidays]'); without it give them as ics",
        )
    try:
        found: Mapping[date, str] = holidays.country_holidays(
            country, subdiv=subdivision or None, years=year, expand=False
        )
    except (NotImplementedError, ValueError, TypeError) as error:
        raise InvalidSchedule.at("country", f"{shown(country)}: {shown(str(error))}") from None
    return found


@lru_cache(maxsize=64)
def _events(ics: str) -> tuple[_Event, ...]:
    """Read the VEVENTs of iCalendar text; those that are cancelled are left out."""
    if ics and "BEGIN:VCALENDAR" not in ics.upper():
        raise InvalidSchedule.at("ics", "this is not iCalendar text: BEGIN:VCALENDAR is missing")
    events = [_event(lines) for lines in _vevents(ics)]
    if len(events) > MAX_EVENTS:
        raise InvalidSchedule.at("ics", f"more than {MAX_EVENTS} events")
    return tuple(event for event in events if event is not None)


def _vevents(ics: str) -> Iterator[dict[str, list[str]]]:
    lines: dict[str, list[str]] = {}
    inside: list[str] = []
    for line in re.split(r"\r?\n", re.sub(r"\r?\n[ \t]", "", ics)):
        keyword, _, component = line.strip().upper().partition(":")
        if keyword == "BEGIN":
            inside.append(component)
        elif keyword == "END" and inside:
            if inside.pop() == "VEVENT":
                yield lines
                lines = {}
        elif inside[-1:] == ["VEVENT"] and (match := _EVENT_LINE.match(line.strip())):
            lines.setdefault(match[1], []).append(match[2])


def _event(lines: dict[str, list[str]]) -> _Event | None:
    if lines.get("STATUS", [""])[0].upper().endswith("CANCELLED"):
        return None
    if "DTSTART" not in lines:
        raise InvalidSchedule.at("ics", "an event has no DTSTART")
    summary = lines.get("SUMMARY", [":event"])[0].partition(":")[2].strip()
    try:
        found = rrule_text.parse_lines(
            name + value
            for name in ("DTSTART", "RRULE", "RDATE", "EXDATE")
            for value in lines.get(name, ())
        )
        start = found.start or Stamp(0)
        length = _length(lines, start)
    except InvalidSchedule as error:
        raise InvalidSchedule.at("ics", f"event {shown(summary)}: {error.message}") from None
    if any(rule.freq > Freq.DAILY for rule in found.rules):
        raise InvalidSchedule.at("ics", f"event {shown(summary)} repeats within a day")
    anchor = datetime(1970, 1, 1, tzinfo=UTC)
    days = rruler.timer(
        rrule_text.floating(found), utc(), starts_at=None, anchor=anchor, dst=rruler.Dst()
    )
    return _Event(days, length, summary)


def _length(lines: dict[str, list[str]], start: Stamp) -> int:
    """Return how many days an event touches; DTEND as a date is the day after the last."""
    if "DTEND" in lines:
        end = rrule_text.parse_lines(["DTSTART" + lines["DTEND"][0]]).start or start
        return max(1, -(-end.wall // DAY) - start.wall // DAY)
    match = _DAYS_LONG.fullmatch(lines.get("DURATION", [""])[0].lstrip(":;"))
    return max(1, int(match[1] or 0) * 7 + int(match[2] or 0)) if match else 1
