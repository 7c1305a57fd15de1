"""Local time: zones as stretches of constant offset, in whole seconds since 1970.

Everything in the time engine is integer arithmetic on two kinds of seconds::

    instant   seconds since 1970-01-01T00:00:00Z
    wall      what a clock on the wall shows, counted the same way: wall = instant + offset

A zone is a row of spans. Inside a span the offset is constant, so nothing is ambiguous there;
gaps and folds exist only where two spans meet.

Importing this module makes ``zoneinfo`` read the ``tzdata`` wheel alone, for the whole process:
the system's copy can be years old (Debian 12 has Chisinau's DST an hour off), and two machines
with different copies would fire the same task at different instants.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from typing import NamedTuple

import tzdata

from ordinaut.errors import InvalidSchedule

zoneinfo.reset_tzpath(to=())

MINUTE = 60
HOUR = 3_600
DAY = 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = date(1970, 1, 1).toordinal()
# The Gregorian calendar begins in 1582, and datetime ends with 9999; both ends leave room for
# offsets and for searches that start a little earlier.
FIRST_YEAR = 1601
LAST_YEAR = 9998
FIRST_INSTANT = (datetime(FIRST_YEAR - 1, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(seconds=1)
LAST_INSTANT = (datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(seconds=1) - 1
# Two neighbouring offsets differ by at most a day (Samoa and Alaska crossed the date line).
MAX_SHIFT = DAY

_CHUNK_BITS = 25  # about 388 days
_PROBE = 6 * DAY  # no zone in tzdata changes twice within six days; a test looks at all of them
_QUIET = 3 * DAY
_SECOND = timedelta(seconds=1)

_LOCAL_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?"
    r"([Zz]|[+-]\d\d:\d\d)?"
)


class Span(NamedTuple):
    """A stretch of instants, ``start <= instant < end``, with one offset."""

    start: int
    end: int
    offset: int


class Zone:
    """One IANA time zone. Get it with :func:`zone`, which keeps one of each."""

    __slots__ = ("_chunks", "info", "name")

    def __init__(self, name: str, info: zoneinfo.ZoneInfo) -> None:
        self.name = name
        self.info = info
        self._chunks: dict[int, tuple[list[int], list[Span]]] = {}

    def span(self, instant: int) -> Span:
        """Return the span that contains ``instant``.

        A long stretch of one offset comes in pieces; a cut between two pieces is never closer
        than three days to a real change, so ``span(start - 1)`` shows whether one happened.
        """
        instant = min(max(instant, FIRST_INSTANT), LAST_INSTANT)
        index = instant >> _CHUNK_BITS
        starts, spans = self._chunk(index)
        if instant < starts[0]:
            starts, spans = self._chunk(index - 1)
        return spans[bisect_right(starts, instant) - 1]

    def offset(self, instant: int) -> int:
        """Return the seconds between UTC and the wall at ``instant``."""
        return self.span(instant).offset

    def at(self, instant: int) -> datetime:
        """Return ``instant`` as an aware datetime in this zone."""
        return datetime.fromtimestamp(instant, self.info)

    def instants(self, wall: int) -> tuple[int, ...]:
        """Return when the clock shows ``wall``: once, twice in a fold, never in a gap."""
        candidates = {wall - span.offset for span in self._around(wall)}
        return tuple(sorted(at for at in candidates if at + self.offset(at) == wall))

    def resolve(self, wall: int) -> int:
        """Return the first instant of ``wall``; in a gap with the offset before it (RFC 5545)."""
        found = self.instants(wall)
        return found[0] if found else wall - min(s.offset for s in self._around(wall))

    def _around(self, wall: int) -> tuple[Span, Span]:
        early = self.span(wall - MAX_SHIFT)
        late = self.span(wall + MAX_SHIFT)
        return early, late

    def _chunk(self, index: int) -> tuple[list[int], list[Span]]:
        found = self._chunks.get(index)
        if found is None:
            spans = self._probe(self._edge(index), self._edge(index + 1))
            found = self._chunks[index] = ([span.start for span in spans], spans)
        return found

    def _edge(self, index: int) -> int:
        """Return a quiet moment at or after the start of chunk ``index``."""
        edge = index << _CHUNK_BITS
        while self._read(edge - _QUIET) != self._read(edge + _QUIET):
            edge += _PROBE
        return edge

    def _probe(self, start: int, end: int) -> list[Span]:
        spans = []
        offset = self._read(start)
        low = start
        for probe in [*range(start + _PROBE, end, _PROBE), end]:
            later = self._read(probe)
            if later != offset:
                change = self._bisect(max(low, probe - _PROBE), probe, later)
                spans.append(Span(low, change, offset))
                low, offset = change, later
        return [*spans, Span(low, end, offset)]

    def _bisect(self, low: int, high: int, later: int) -> int:
        while high - low > 1:
            middle = (low + high) // 2
            if self._read(middle) == later:
                high = middle
            else:
                low = middle
        return high

    def _read(self, instant: int) -> int:
        clamped = min(max(instant, FIRST_INSTANT), LAST_INSTANT)
        offset = datetime.fromtimestamp(clamped, self.info).utcoffset()
        return 0 if offset is None else offset // _SECOND


_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])(\d{1,2})(?::?\d\d)?", re.ASCII)
# What people write for a zone, and no zone is called.
_NICKNAMES = {
    "Z": "UTC",
    "BST": "Europe/London",
    "CEST": "Europe/Berlin",
    "EEST": "Europe/Chisinau",
    "KISHINEV": "Europe/Chisinau",
    "MSK": "Europe/Moscow",
    "EDT": "America/New_York",
    "CST": "America/Chicago",
    "CDT": "America/Chicago",
    "MDT": "America/Denver",
    "PST": "America/Los_Angeles",
    "PDT": "America/Los_Angeles",
    "IST": "Asia/Kolkata",
    "JST": "Asia/Tokyo",
    "AEST": "Australia/Sydney",
    "AEDT": "Australia/Sydney",
}


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


@lru_cache(maxsize=1_024)
def _load(name: str) -> Zone:
    return Zone(name, zoneinfo.ZoneInfo(name))


def zone(name: str, *, path: str = "timezone") -> Zone:
    """Return the IANA zone ``name``; raise InvalidSchedule at ``path`` with the nearest name."""
    if name not in _zone_names():
        raise InvalidSchedule.at(path, _unknown_zone(name))
    return _load(name)


def utc() -> Zone:
    """Return the zone UTC."""
    return _load("UTC")


def _unknown_zone(name: str) -> str:
    return f"unknown time zone {shown(name)}; {_meant_zone(name)}"


def _meant_zone(name: str) -> str:
    offset = _OFFSET.fullmatch(name.strip().upper())
    if offset is not None:
        sign = "-" if offset[1] == "+" else "+"
        fixed = f"Etc/GMT{sign}{int(offset[2])}"
        also = f' ("{fixed}" is this offset all year)' if fixed in _zone_names() else ""
        return f'name a place, such as "Europe/Chisinau", which knows its clock changes{also}'
    known = _NICKNAMES.get(name.strip().upper().rpartition("/")[2])
    if known is None:
        by_lower = {known.lower(): known for known in _zone_names()}
        near = difflib.get_close_matches(name[:64].lower(), by_lower, n=1, cutoff=0.6)
        known = by_lower[near[0]] if near else None
    return f'did you mean "{known}"?' if known else 'an example is "Europe/Chisinau"'


def shown(text: str, limit: int = 60) -> str:
    """Return user input the way a message quotes it: printable, and not too long."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)
    return f'"{printable}"'


def tzdata_version() -> str:
    """Return the IANA release in use, such as ``2026f``."""
    return str(tzdata.IANA_VERSION)


def to_instant(moment: datetime) -> int:
    """Return an aware datetime as whole seconds, rounded down."""
    return (moment - EPOCH) // _SECOND


def to_utc(instant: int) -> datetime:
    """Return ``instant`` as an aware datetime in UTC."""
    return EPOCH + timedelta(seconds=instant)


def wall_of(moment: datetime) -> int:
    """Return the wall seconds of a naive datetime."""
    return (moment.replace(tzinfo=UTC) - EPOCH) // _SECOND


def day_of(when: date) -> int:
    """Return the days from 1970-01-01 to ``when``."""
    return when.toordinal() - EPOCH_DAY


def date_of(day: int) -> date:
    """Return the date ``day`` days after 1970-01-01."""
    return date.fromordinal(day + EPOCH_DAY)


def parse_time(text: str, *, path: str = "schedule_expr") -> datetime:
    """Read an RFC 3339 instant (aware) or a local time without offset (naive)."""
    match = _LOCAL_TIME.fullmatch(text.strip())
    if match is None:
        raise InvalidSchedule.at(
            path,
            f"{shown(text)} is not a time; write an RFC 3339 instant "
            "(2027-03-01T09:00:00Z, 2027-03-01T09:00:00+02:00) or a local time "
            "(2027-03-01T09:00:00)",
        )
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    iso = f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}"
    if fraction:
        iso += f".{fraction[:6]:0<6}"
    try:
        check_year(int(year))
        if offset and offset[1:3] > "23":
            raise ValueError("an offset lies between -23:59 and +23:59")
        return datetime.fromisoformat(iso + (offset or "").upper())
    except ValueError as error:
        raise InvalidSchedule.at(path, f"{shown(text)} is not a time: {error}") from None


def check_year(year: int) -> None:
    """Raise ValueError for a year that can not be computed with."""
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise ValueError(f"the year must be in {FIRST_YEAR}..{LAST_YEAR}")
