"""Recurrence sets as text: the content lines of RFC 5545 section 3.8.5, read into a value.

Lines may be folded, come in any order and stand on one line separated by spaces; a bare
``FREQ=…`` is an RRULE.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from ordinaut.engine.localtime import shown, zone
from ordinaut.engine.rrule_parts import Rule, Stamp, parse_rule, parse_stamp, refused

MAX_DATES = 5_000
MAX_RULES = 16

_NAMES = "DTSTART|RRULE|EXRULE|RDATE|EXDATE"
_FOLD = re.compile(rf"\r?\n[ \t](?!\s*(?:{_NAMES})[:;])", re.IGNORECASE)
_BREAK = re.compile(rf"[\r\n]+|\s+(?=(?:{_NAMES})[:;])", re.IGNORECASE)
_LINE = re.compile(rf"({_NAMES})((?:;[^:;]+)*):(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A recurrence set as it was written."""

    start: Stamp | None = None
    rules: tuple[Rule, ...] = ()
    without: tuple[Rule, ...] = ()
    extra: tuple[Stamp, ...] = ()
    removed: tuple[Stamp, ...] = ()


@lru_cache(maxsize=4_096)
def parse(text: str) -> Recurrence:
    """Read content lines, or one bare ``FREQ=…``; raise InvalidSchedule naming what is wrong."""
    found = parse_lines(filter(None, map(str.strip, _BREAK.split(_FOLD.sub("", text)))))
    if not (found.rules or found.extra):
        raise refused("there is no RRULE or RDATE; write FREQ=…, or use the kind once")
    if len(found.rules) + len(found.without) > MAX_RULES:
        raise refused(f"more than {MAX_RULES} rules in one expression; make several tasks")
    if len(found.extra) + len(found.removed) > MAX_DATES:
        raise refused(f"more than {MAX_DATES} dates in one expression; use a calendar")
    return found


def parse_lines(lines: Iterable[str]) -> Recurrence:
    """Read unfolded content lines, whatever they amount to."""
    found = Recurrence()
    for line in lines:
        found = _with_line(found, line)
    return found


def floating(found: Recurrence) -> Recurrence:
    """Return the set with all its times as they are shown, without their zones."""

    def shown_only(stamps: tuple[Stamp, ...]) -> tuple[Stamp, ...]:
        return tuple(replace(stamp, utc=False, zone=None) for stamp in stamps)

    return replace(
        found,
        start=found.start and replace(found.start, utc=False, zone=None),
        extra=shown_only(found.extra),
        removed=shown_only(found.removed),
    )


def _with_line(found: Recurrence, line: str) -> Recurrence:
    match = _LINE.fullmatch(line)
    if match is None:
        if "=" in line and ":" not in line.split("=")[0]:
            return replace(found, rules=(*found.rules, parse_rule(line)))
        known = _NAMES.replace("|", ", ")
        raise refused(f"{shown(line)} is neither a rule (FREQ=…) nor one of {known}")
    name, parameters, value = match[1].upper(), match[2], match[3]
    if name in ("RRULE", "EXRULE"):
        rule = parse_rule(value)
        if name == "RRULE":
            return replace(found, rules=(*found.rules, rule))
        return replace(found, without=(*found.without, rule))
    stamps = _stamps(name, parameters, value)
    if name == "RDATE":
        return replace(found, extra=found.extra + stamps)
    if name == "EXDATE":
        return replace(found, removed=found.removed + stamps)
    if found.start is not None or len(stamps) != 1:
        raise refused("DTSTART is given twice; one expression has one start")
    return replace(found, start=stamps[0])


def _stamps(name: str, parameters: str, value: str) -> tuple[Stamp, ...]:
    given = dict(_parameter(name, word) for word in parameters.split(";")[1:])
    if given.get("VALUE", "DATE-TIME").upper() not in ("DATE", "DATE-TIME"):
        raise refused(f"{name}: VALUE={given['VALUE']} is not supported, only DATE and DATE-TIME")
    found = tuple(parse_stamp(word, name) for word in value.split(","))
    tzid = given.get("TZID")
    if tzid is None:
        return found
    zone(tzid, path="schedule_expr")
    if any(stamp.utc for stamp in found):
        raise refused(f"{name}: a time ends in Z or has a TZID, not both")
    return tuple(replace(stamp, zone=tzid) for stamp in found)


def _parameter(name: str, word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    if key.upper() not in ("TZID", "VALUE") and not key.upper().startswith("X-"):
        raise refused(f"{name}: {shown(key)} is not a parameter; known are TZID and VALUE")
    return key.strip().upper(), value.strip().strip('"')
