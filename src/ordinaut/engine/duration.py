"""ISO 8601 durations of fixed length: weeks, days, hours, minutes, seconds."""

from __future__ import annotations

import re
from functools import lru_cache

from ordinaut.engine.localtime import DAY, HOUR, MINUTE, shown
from ordinaut.engine.rrule_parts import refused

MAX_INTERVAL = 100 * 366 * DAY

_SECONDS = {"weeks": 7 * DAY, "days": DAY, "hours": HOUR, "minutes": MINUTE, "seconds": 1}
_DURATION = re.compile(
    r"P(?:(?P<weeks>\d{1,9})W)?(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,12})S)?)?"
)


@lru_cache(maxsize=1_024)
def parse_duration(text: str) -> int:
    """Return the seconds of a duration; raise InvalidSchedule with what would be right."""
    seconds = sum(_SECONDS[unit] * number for unit, number in duration_parts(text).items())
    if not 1 <= seconds <= MAX_INTERVAL:
        raise refused(f"{shown(text)}: an interval is at least one second and at most 100 years")
    return seconds


def duration_parts(text: str) -> dict[str, int]:
    """Return a duration as it is written: ``{"hours": 1, "minutes": 30}``."""
    word = text.strip().upper()
    match = _DURATION.fullmatch(word)
    if match is None or word == "P":
        raise refused(f"{shown(text)} is not a duration; {_hint(word)}")
    return {unit: int(number) for unit, number in match.groupdict().items() if number}


def _hint(word: str) -> str:
    if re.match(r"P[\dW]*\d+[YM]", word):
        return (
            "months and years differ in length, so write a rule for them "
            "(FREQ=MONTHLY;BYMONTHDAY=1); minutes have a T before them (PT5M)"
        )
    if re.search(r"\d[.,]\d", word):
        return "fractions are not supported, the smallest interval is PT1S"
    return "write an ISO 8601 duration: PT10S, PT5M, PT1H30M, P1D, P1W"
