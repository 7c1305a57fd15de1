"""Cron expressions: five fields, or six with seconds first, and ``@`` names.

The words are those of Debian's cron with ``L`` and ``#`` (the library cronsim is the oracle of
the tests). A clock change treats two kinds of jobs differently, as in Debian:

- A job whose minute and hour fields do not start with ``*`` runs at fixed times. In a gap it runs
  when the gap ends (``dst_gap: shift``) or not at all (``skip``); in a fold ``dst_fold`` decides,
  by default the first of the two. See ``docs/decisions/0002-dst-of-cron.md``.
- Any other job runs whenever the wall shows a match, so it goes through gaps and folds in real
  time, without a hole and without a repetition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ordinaut.engine.days import LAST_WORKDAY, MIDNIGHT, DayPattern, DayTimes, Freq
from ordinaut.engine.localtime import FIRST_INSTANT, MINUTE, Zone, shown
from ordinaut.engine.rrule_parts import refused
from ordinaut.engine.timers import ElapsedTimer, Timer, WallFilter, WallTimer
from ordinaut.engine.walls import DayRule
from ordinaut.errors import InvalidSchedule
from ordinaut.model import DstFold, DstGap

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_LAST = -1


@dataclass(frozen=True, slots=True)
class _Field:
    """One place of an expression: its name, the range of its values and their names."""

    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()

    def describe(self) -> str:
        spelled = f" or {self.words[0]} to {self.words[-1]}" if self.words else ""
        return f"{self.low} to {self.high}{spelled}"

    def refuse(self, text: str, reason: str) -> InvalidSchedule:
        return refused(f"{self.name} field: {shown(text)} {reason}")

    def value(self, word: str, term: str) -> int:
        if word in self.words:
            return self.words.index(word) + self.low
        if not (word.isascii() and word.isdigit()) or not self.low <= int(word[:9]) <= self.high:
            raise self.refuse(term, f"is not one of {self.describe()}")
        return int(word)

    def step(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text[:9]) == 0:
            raise self.refuse(text, "is not a step; write a whole number from 1 after the /")
        return int(text[:9])

    def values(self, text: str) -> set[int]:
        """Read one term without commas: ``*``, a value, a range, any of them with a step."""
        base, slash, step = text.partition("/")
        if base == "*":
            low, high = self.low, self.high
        elif "-" in base:
            low, high = (self.value(end, text) for end in base.split("-", maxsplit=1))
            if high < low:
                raise self.refuse(text, f"runs backwards; a range goes up within {self.describe()}")
        else:
            low = self.value(base, text)
            high = self.high if slash else low
        return set(range(low, high + 1, self.step(step) if slash else 1))


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day-of-month", 1, 31)
_MONTH = _Field("month", 1, 12, tuple(_MONTHS))
_WEEKDAY = _Field("day-of-week", 0, 7, tuple(_DAYS))
_SIX = (_SECOND, _MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression as sets of values; an empty day set allows every day.

    Month days count from the end if negative, 0 is the last working day. Weekdays are
    ``(n, weekday)`` with Monday 0.
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    month_days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[tuple[int, int]]
    either: bool
    fixed: bool


@lru_cache(maxsize=4_096)
def parse(text: str) -> Cron:
    """Read an expression; raise InvalidSchedule naming the field."""
    name = text.strip().lower()
    if name.startswith("@"):
        if name not in ALIASES:
            why = "has no meaning here: nothing boots" if name == "@reboot" else "is not known"
            raise refused(f"{shown(name)} {why}; known are {', '.join(ALIASES)}")
        text = ALIASES[name]
    words = text.upper().split()
    if len(words) not in (5, 6):
        raise refused(
            f"{shown(text)} has {len(words)} fields; write 5 (minute hour day-of-month month "
            "day-of-week) or 6 (second first)"
        )
    if len(words) == 5:
        return _read(["0", *words])
    try:
        return _read(words)
    except InvalidSchedule as error:
        raise refused(
            f"{error.message} (six fields are second, minute, hour, day-of-month, month and "
            "day-of-week; the values of one field are joined by commas)"
        ) from None


def _read(words: list[str]) -> Cron:
    second, minute, hour, day, month, weekday = words
    month_days = _month_days(day)
    weekdays = _weekdays(weekday)
    months = _set(_MONTH, month)
    return Cron(
        seconds=tuple(sorted(_set(_SECOND, second))),
        minutes=tuple(sorted(_set(_MINUTE, minute))),
        hours=tuple(sorted(_set(_HOUR, hour))),
        month_days=frozenset() if day == "*" else frozenset(month_days),
        months=frozenset() if len(months) == 12 else frozenset(months),
        weekdays=frozenset() if weekday == "*" else frozenset(weekdays),
        either=not (day.startswith("*") or weekday.startswith("*")),
        fixed=not (minute.startswith("*") or hour.startswith("*")),
    )


def _set(field: _Field, text: str) -> set[int]:
    return set().union(*(field.values(term) for term in text.split(",")))


def _month_days(text: str) -> set[int]:
    special = {"L": _LAST, "LW": LAST_WORKDAY}
    found = set()
    for term in text.split(","):
        found |= {special[term]} if term in special else _DAY.values(term)
    return found


def _weekdays(text: str) -> set[tuple[int, int]]:
    found = set()
    for term in text.split(","):
        name, hash_sign, number = term.partition("#")
        if hash_sign:
            if number not in ("1", "2", "3", "4", "5"):
                raise _WEEKDAY.refuse(term, "needs a number from 1 to 5 after the #")
            found.add((int(number), _monday_first(_WEEKDAY.value(name, term))))
        elif term.endswith("L"):
            found.add((_LAST, _monday_first(_WEEKDAY.value(term[:-1], term))))
        else:
            found |= {(0, _monday_first(value)) for value in _WEEKDAY.values(term)}
    return found


def _monday_first(weekday: int) -> int:
    return (weekday - 1) % 7


def pattern_of(cron: Cron) -> DayPattern:
    """Return the days of a cron expression, and the times of a fixed one."""
    return DayPattern(
        Freq.MONTHLY,
        months=cron.months,
        month_days=cron.month_days,
        weekdays=cron.weekdays,
        either=cron.either,
        times=DayTimes(cron.hours, cron.minutes, cron.seconds) if cron.fixed else MIDNIGHT,
    )


def timer(cron: Cron, local: Zone, *, gap: DstGap, fold: DstFold) -> Timer:
    """Return the timer of a cron expression in a zone."""
    days = DayRule.always(pattern_of(cron))
    if cron.fixed:
        return WallTimer(days, local, gap="end" if gap == "shift" else "skip", fold=fold)
    filtered = cron.months or cron.month_days or cron.weekdays
    return ElapsedTimer(
        local,
        origin=0,
        first=FIRST_INSTANT,
        unit=MINUTE,
        inside=cron.seconds,
        aligned=True,
        filters=WallFilter(days if filtered else None, cron.hours, cron.minutes),
    )
