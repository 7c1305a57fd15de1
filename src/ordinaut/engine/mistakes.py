"""What somebody may have meant whose schedule is refused.

Each kind has a table of patterns, tried in order over the expression in capitals, and what to
say about the first that is found. Nothing here decides whether an expression is good.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TypeAlias

from ordinaut.errors import InvalidSchedule
from ordinaut.model import Schedule

Say: TypeAlias = str | Callable[[re.Match[str]], str]

MAX_LENGTH = 200

_RRULE_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_CRON_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAY = "|".join(_RRULE_DAYS)
_CRON_DAY = "|".join(_CRON_DAYS)
_MONTH = "|".join(_MONTHS)
_UNITS = {"S": "PT{}S", "M": "PT{}M", "H": "PT{}H", "D": "P{}D", "W": "P{}W"}
_UNIT = r"(S|SEC|SECS|SECONDS?|M|MIN|MINS|MINUTES?|H|HR|HRS|HOURS?|D|DAYS?|W|WEEKS?)"
_CRON_LIKE = r"(?=[\d*])[\d*/,#A-Z?-]+(\s+[\d*/,#A-Z?-]+){4,5}"
_ISO = r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d))?(Z?))?"
_ZONE_FIELD = 'the time zone is the field "timezone"'


def helped(error: InvalidSchedule, schedule: Schedule) -> InvalidSchedule:
    """Return the error with what may have been meant, if anybody can guess."""
    problem = error.problems[0]
    found = None if problem.path != "schedule_expr" else meant(schedule.kind, schedule.expr)
    if found is None:
        return error
    message = re.sub(r"; did you mean [^;]*\?$", "", problem.message)
    return InvalidSchedule.at(problem.path, f"{message}; {found}")


def meant(kind: str, expr: str) -> str | None:
    """Return what is to be said about an expression that is refused, or ``None``."""
    if len(expr) > MAX_LENGTH:
        return None  # nobody wrote that by hand, and patterns take their time
    text = expr.strip().upper()
    for pattern, say in _table(kind):
        match = pattern.search(text)
        if match is not None:
            said = say if isinstance(say, str) else say(match)
            if said:
                return said
    return None


def _kind(kind: str) -> str:
    return f'this looks like {kind}; set schedule_kind to "{kind}"'


def _duration(count: str, unit: str) -> str:
    return f'did you mean "{_UNITS[unit[0]].format(int(count))}"?'


def _hour(match: re.Match[str]) -> str:
    """The hour from 0 to 23 of ``9AM`` or ``9PM``."""
    return str(int(match[1]) % 12 + (12 if match[2] == "PM" else 0))


def _range(days: tuple[str, ...], first: str, last: str) -> str:
    """All days from one to another, over the end of the week if need be."""
    start = days.index(first)
    count = (days.index(last) - start) % len(days) + 1
    return ",".join((days * 2)[start : start + count])


def _over_sunday(match: re.Match[str]) -> str:
    """A week of cron begins on Sunday, so that a range can not go over it."""
    first, last = match[1], match[2]
    if _CRON_DAYS.index(first) < _CRON_DAYS.index(last) < 6 or first == "SUN":
        return ""
    return f"list the days: {_range(_CRON_DAYS, first, last)}"


def _numbers(match: re.Match[str]) -> str:
    first, last = int(match[2]), int(match[3])
    said = "there are no ranges; list the values"
    if not first < last < 60:
        return said
    return f"{said}: {match[1]}={','.join(map(str, range(first, last + 1)))}"


def _basic(match: re.Match[str]) -> str:
    """An ISO 8601 time in the form of RFC 5545."""
    year, month, day, hour, minute, second, utc = (part or "" for part in match.groups())
    return f'did you mean "{year}{month}{day}T{hour or "00"}{minute or "00"}{second or "00"}{utc}"?'


def _clock(match: re.Match[str]) -> str:
    hours, minutes, seconds = int(match[1]), int(match[2]), int(match[3] or 0)
    parts = ((hours, "H"), (minutes, "M"), (seconds, "S"))
    return f'did you mean "PT{"".join(f"{n}{unit}" for n, unit in parts if n) or "0S"}"?'


def _fraction(match: re.Match[str]) -> str:
    seconds = round(float(match[1]) * {"H": 3600, "M": 60}[match[2]])
    hours, minutes = divmod(seconds // 60, 60)
    parts = ((hours, "H"), (minutes, "M"), (seconds % 60, "S"))
    return f'did you mean "PT{"".join(f"{n}{unit}" for n, unit in parts if n)}"?'


def _epoch(match: re.Match[str]) -> str:
    at = datetime.fromtimestamp(int(match[1]), UTC)
    return f'did you mean "{at:%Y-%m-%dT%H:%M:%SZ}"?'


_SECONDS_OF_EPOCH = r"^(\d{10})(?:\d{3})?$"

_SAID: dict[str, tuple[tuple[str, Say], ...]] = {
    "rrule": (
        (rf"^{_CRON_LIKE}$", _kind("cron")),
        (r"^P(T|\d)", _kind("interval")),
        (r"^([A-Z]{3,6}LY)$", lambda m: f"write FREQ={m[1]}"),
        (r"\bFREQ:", 'write "=" between the name of a part and its value: FREQ=DAILY'),
        (r"\bFREQ=[A-Z]+[ ,]+[A-Z]+=", 'the parts of a rule are separated by ";"'),
        (r"\bFREQ=(WEEK|WORK)(ING)?DAYS?", "working days are FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR"),
        (r"\bFREQ=(BIWEEKLY|FORTNIGHTLY)", "every two weeks is FREQ=WEEKLY;INTERVAL=2"),
        (r"\bFREQ=(BIMONTHLY)", "every two months is FREQ=MONTHLY;INTERVAL=2"),
        (r"\bFREQ=QUARTERLY", "every three months is FREQ=MONTHLY;INTERVAL=3"),
        (r"\bFREQ=ANNUAL(LY)?", "every year is FREQ=YEARLY"),
        (r"(^|;)DTSTART=", "DTSTART stands on a line of its own: DTSTART:20270301T090000"),
        (r"(\bFREQ=[^\n]*;|\n)(TZID|TZ|TIMEZONE)=", _ZONE_FIELD),
        (r";(AT|TIME)=", "a time of day is BYHOUR=9;BYMINUTE=30"),
        (rf"\bBYDAY=.*?\b({_DAY})-({_DAY})\b",
         lambda m: f"there are no ranges; list the days: {_range(_RRULE_DAYS, m[1], m[2])}"),
        (rf"\bBYDAY=.*?\bLAST ?({_DAY})", lambda m: f"the last one is -1{m[1]}"),
        (rf"\bBYDAY=.*?\b({_DAY})#?(-?\d)", lambda m: f"the number comes first: {m[2]}{m[1]}"),
        (r"\bBYMONTHDAY=LAST", "the last day of a month is BYMONTHDAY=-1"),
        (rf"\bBYMONTH=.*?\b({_MONTH})",
         lambda m: f"months are numbers: BYMONTH={_MONTHS.index(m[1]) + 1}"),
        (r"\bBYHOUR=(\d\d?):(\d\d)", lambda m: f"write BYHOUR={int(m[1])};BYMINUTE={int(m[2])}"),
        (r"\bBYHOUR=(\d\d?) ?(AM|PM)", lambda m: f"write BYHOUR={_hour(m)}"),
        (r"\b(BY[A-Z]+)=(\d+)-(\d+)\b", _numbers),
        (rf"\bWKST=({_DAY})[A-Z]", lambda m: f"did you mean {m[1]}?"),
        (_ISO, _basic),
    ),
    "cron": (
        (r"\bFREQ=", _kind("rrule")),
        (r"^P(T|\d)", _kind("interval")),
        (rf"^@EVERY (\d+) ?{_UNIT}$",
         lambda m: f'set schedule_kind to "interval": {_duration(m[1], m[2])}'),
        (r"^EVERY (\d+) M", lambda m: f'every {m[1]} minutes is "*/{m[1]} * * * *"'),
        (r"^EVERY (\d+) H", lambda m: f'every {m[1]} hours is "0 */{m[1]} * * *"'),
        (r"^(\*/\d+)$", lambda m: f'did you mean "{m[1]} * * * *"?'),
        (r"\b(CRON_)?TZ=", _ZONE_FIELD),
        (r" \d{4}$", "there is no field for years; use starts_at and ends_at"),
        (r"\s\S*/[A-Z]", "the expression ends with the day of the week; no command follows it"),
        (r"\b(\d\d?):(\d\d)\b",
         lambda m: f'minute and hour are two fields: "{int(m[2])} {int(m[1])} * * *"'),
        (r"\b(\d\d?)(AM|PM)\b", lambda m: f"the hour is {_hour(m)}"),
        (r"\?", 'write "*" in place of "?"'),
        (r"\bL-(\d+)", lambda m: "rules can count from the end of a month: "
         f"FREQ=MONTHLY;BYMONTHDAY=-{int(m[1]) + 1}, of kind rrule"),
        (r"\b\d+W\b", "to move to a working day, exclude a calendar of weekends with on_excluded"),
        (r"(^|\s)H(\s|/|\(|$)", "to spread tasks over time, use jitter_seconds"),
        (rf"\b({_CRON_DAY})-({_CRON_DAY})\b",
         _over_sunday),
        (rf"\b({_CRON_DAY})[A-Z]+\b", lambda m: f"did you mean {m[1]}?"),
        (rf"\b({_MONTH})[A-Z]+\b", lambda m: f"did you mean {m[1]}?"),
        (rf"\b({_DAY})\b", lambda m: f"did you mean {_CRON_DAYS[_RRULE_DAYS.index(m[1])]}?"),
    ),
    "interval": (
        (rf"^{_CRON_LIKE}$", _kind("cron")),
        (r"\bFREQ=", _kind("rrule")),
        (rf"^(?:EVERY )?(\d+) ?{_UNIT}$", lambda m: _duration(m[1], m[2])),
        (rf"^EVERY {_UNIT}$", lambda m: _duration("1", m[1])),
        (r"^(\d+)$", lambda m: _duration(m[1], "S")),
        (r"^(\d+):(\d\d)(?::(\d\d))?$", _clock),
        (r"^(T(?:\d+[HMS])+)$", lambda m: f'did you mean "P{m[1]}"?'),
        (r"^(PT\d+H\d+)$", lambda m: f'did you mean "{m[1]}M"?'),
        (r"^(PT(?:\d+H)?\d+M\d+)$", lambda m: f'did you mean "{m[1]}S"?'),
        (r"^(PT\d+)$", lambda m: f'a unit is missing: "{m[1]}M" or "{m[1]}S"'),
        (r"^PT(\d+\.\d+)([HM])$", _fraction),
    ),
    "once": (
        (rf"^{_CRON_LIKE}$", _kind("cron")),
        (r"\bFREQ=", _kind("rrule")),
        (r"^P(T|\d)", _kind("interval")),
        (r"^NOW$", "to run a task at once, use POST /tasks/{id}/run_now"),
        (_SECONDS_OF_EPOCH, _epoch),
        (r"^(\d{4}-\d\d-\d\d)$", lambda m: f'the time of day is missing: "{m[1]}T09:00:00"'),
        (r"^(\d{4}-\d\d-\d\d)[T ](\d:\d\d.*)$", lambda m: f'did you mean "{m[1]}T0{m[2]}"?'),
        (r"^(.*\d) ?(UTC|GMT)$", lambda m: f'did you mean "{m[1].replace(" ", "T")}Z"?'),
        (r"\d \[?[A-Z]+/[A-Z_]+\]?$", _ZONE_FIELD),
        (r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(Z?)$",
         lambda m: f'did you mean "{m[1]}-{m[2]}-{m[3]}T{m[4]}:{m[5]}:{m[6]}{m[7]}"?'),
        (r"[T ]24:00", "midnight is 00:00:00 of the next day"),
        (r"^\d\d?[./-]\d\d?[./-]\d{4}", "the year comes first, then the month, then the day"),
        (r"([+-]\d\d)(\d\d)$", lambda m: f'write the offset with a colon: "{m[1]}:{m[2]}"'),
    ),
}  # fmt: skip


@cache
def _table(kind: str) -> tuple[tuple[re.Pattern[str], Say], ...]:
    # Compiled when the first mistake is made: most processes never see one.
    return tuple((re.compile(pattern, re.ASCII), say) for pattern, say in _SAID.get(kind, ()))
