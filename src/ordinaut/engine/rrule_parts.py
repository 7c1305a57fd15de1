"""One RRULE line: its parts read, checked against RFC 5545 section 3.3.10, and made a value.

What the RFC forbids is refused with the part and the reason, because every library that is
lenient here guesses differently.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from ordinaut.engine.days import Freq
from ordinaut.engine.localtime import check_year, shown, wall_of
from ordinaut.errors import InvalidSchedule

WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
MAX_NUMBER = 999_999_999

# Lowest and highest value, and whether it may count from the end.
_RANGES = {
    "BYSECOND": (0, 60, False),
    "BYMINUTE": (0, 59, False),
    "BYHOUR": (0, 23, False),
    "BYMONTHDAY": (1, 31, True),
    "BYYEARDAY": (1, 366, True),
    "BYWEEKNO": (1, 53, True),
    "BYMONTH": (1, 12, False),
    "BYSETPOS": (1, 366, True),
}
_PARTS = ("FREQ", "UNTIL", "COUNT", "INTERVAL", "WKST", "BYDAY", *_RANGES)
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z?))?")
_WEEKDAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_NUMBER = re.compile(r"[+-]?\d{1,9}")


@dataclass(frozen=True, slots=True)
class Stamp:
    """A date or date-time as iCalendar writes it; ``wall`` is what it shows."""

    wall: int
    utc: bool = False
    is_date: bool = False
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One RRULE. Empty tuples are parts that were not given; weekdays are ``(n, weekday)``."""

    freq: Freq
    interval: int = 1
    count: int | None = None
    until: Stamp | None = None
    week_start: int = 0
    months: tuple[int, ...] = ()
    week_numbers: tuple[int, ...] = ()
    year_days: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    weekdays: tuple[tuple[int, int], ...] = ()
    hours: tuple[int, ...] = ()
    minutes: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()


def refused(message: str) -> InvalidSchedule:
    """Return the error of an expression that can not be used."""
    return InvalidSchedule.at("schedule_expr", message)


def parse_rule(text: str) -> Rule:
    """Read the parts of one rule: ``FREQ=…;INTERVAL=…``, in any order and case."""
    parts = _split(text)
    freq = _freq(parts)
    numbers = {name: _numbers(name, value) for name, value in parts.items() if name in _RANGES}
    rule = Rule(
        freq=freq,
        interval=_whole("INTERVAL", parts.get("INTERVAL", "1")),
        count=_whole("COUNT", parts["COUNT"]) if "COUNT" in parts else None,
        until=parse_stamp(parts["UNTIL"], "UNTIL") if "UNTIL" in parts else None,
        week_start=_week_start(parts.get("WKST", "MO")),
        months=numbers.get("BYMONTH", ()),
        week_numbers=numbers.get("BYWEEKNO", ()),
        year_days=numbers.get("BYYEARDAY", ()),
        month_days=numbers.get("BYMONTHDAY", ()),
        weekdays=_weekdays(parts["BYDAY"]) if "BYDAY" in parts else (),
        hours=numbers.get("BYHOUR", ()),
        minutes=numbers.get("BYMINUTE", ()),
        # A clock without leap seconds shows second 60 as 59 (RFC 5545, 3.3.12).
        seconds=tuple(sorted({min(second, 59) for second in numbers.get("BYSECOND", ())})),
        positions=numbers.get("BYSETPOS", ()),
    )
    _check_combination(rule, parts)
    return rule


def parse_stamp(text: str, name: str) -> Stamp:
    """Read ``19970902T090000Z``, ``19970902T090000`` or ``19970902``."""
    match = _STAMP.fullmatch(text.strip().upper())
    if match is None:
        raise refused(f"{name}: {shown(text)} is not a time; write it like 20270301T090000Z")
    *numbers, utc = match.groups()
    try:
        check_year(int(numbers[0]))
        moment = datetime(*[int(number or 0) for number in numbers])  # type: ignore[arg-type]  # noqa: DTZ001  six ints, and wall time has no zone
    except ValueError as error:
        raise refused(f"{name}: {shown(text)} is not a time: {error}") from None
    return Stamp(wall_of(moment), utc=utc == "Z", is_date=numbers[3] is None)


def _split(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(";"))):
        name, equals, value = (word.strip().upper() for word in piece.partition("="))
        if not equals or not value:
            raise refused(f"{shown(piece)} is not a rule part; write NAME=VALUE")
        if name not in _PARTS:
            raise refused(f"{shown(name)} is not a part of a rule{_near(name, _PARTS)}")
        if name in parts:
            raise refused(f"{name} is given twice; write it once, its values separated by commas")
        parts[name] = value
    return parts


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word[:32], list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def _freq(parts: dict[str, str]) -> Freq:
    value = parts.get("FREQ")
    if value is None:
        raise refused("FREQ is missing; a rule starts with, for example, FREQ=DAILY")
    if value not in Freq.__members__:
        raise refused(f"FREQ: {shown(value)} is not a frequency{_near(value, Freq.__members__)}")
    return Freq[value]


def _whole(name: str, value: str) -> int:
    if not _NUMBER.fullmatch(value) or int(value) < 1:
        raise refused(f"{name} takes a whole number from 1 to {MAX_NUMBER}, not {shown(value)}")
    return int(value)


def _numbers(name: str, value: str) -> tuple[int, ...]:
    low, high, signed = _RANGES[name]
    found = set()
    for word in value.split(","):
        number = int(word) if _NUMBER.fullmatch(word.strip()) else None
        size = abs(number) if number is not None and signed else number
        if number is None or size is None or not low <= size <= high:
            span = f"{low} to {high}" + (f" or -{high} to -{low}" if signed else "")
            raise refused(f"{name} takes {span}, not {shown(word)}")
        found.add(number)
    return tuple(sorted(found))


def _week_start(value: str) -> int:
    if value not in WEEKDAYS:
        raise refused(f"WKST takes one of {', '.join(WEEKDAYS)}, not {shown(value)}")
    return WEEKDAYS.index(value)


def _weekdays(value: str) -> tuple[tuple[int, int], ...]:
    found = set()
    for word in value.split(","):
        match = _WEEKDAY.fullmatch(word.strip())
        number = int(match[1]) if match and match[1] else 0
        if match is None or not -53 <= number <= 53 or (match[1] and number == 0):
            known = ", ".join(WEEKDAYS)
            raise refused(
                f"BYDAY takes {known}, with a number from 1 to 53 or -53 to -1 before it for the "
                f"n-th (1MO, -1FR), not {shown(word)}{_weekday_hint(word)}"
            )
        found.add((number, WEEKDAYS.index(match[2])))
    return tuple(sorted(found, key=lambda pair: (pair[1], pair[0])))


def _weekday_hint(word: str) -> str:
    short = word.strip()[:2]
    return f"; did you mean {short}?" if word.strip().isalpha() and short in WEEKDAYS else ""


def _check_combination(rule: Rule, parts: dict[str, str]) -> None:
    if rule.count is not None and rule.until is not None:
        raise refused("UNTIL and COUNT exclude each other (RFC 5545); keep one")
    _only("BYWEEKNO", parts, rule.freq, allowed={Freq.YEARLY})
    _only("BYMONTHDAY", parts, rule.freq, allowed=set(Freq) - {Freq.WEEKLY})
    _only(
        "BYYEARDAY", parts, rule.freq, allowed=set(Freq) - {Freq.DAILY, Freq.WEEKLY, Freq.MONTHLY}
    )
    if any(number for number, _ in rule.weekdays):
        if rule.freq not in (Freq.YEARLY, Freq.MONTHLY):
            raise refused(
                f"BYDAY={parts['BYDAY']}: the n-th weekday needs FREQ=MONTHLY or FREQ=YEARLY "
                f"(RFC 5545), not {rule.freq.name}"
            )
        if rule.week_numbers:
            raise refused("BYDAY takes no numbers together with BYWEEKNO (RFC 5545)")
    if rule.positions and not any(name.startswith("BY") for name in parts.keys() - {"BYSETPOS"}):
        raise refused("BYSETPOS picks from another BY part (RFC 5545); add one, such as BYDAY")


def _only(name: str, parts: dict[str, str], freq: Freq, *, allowed: set[Freq]) -> None:
    if name in parts and freq not in allowed:
        names = ", ".join(one.name for one in sorted(allowed))
        raise refused(f"{name} is not allowed with FREQ={freq.name} (RFC 5545), only with {names}")
