"""Lengths of time and instants as pipelines write them: ``24h``, ``now+1d-2h``, ``PT15M``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART = r"\d{1,9}\s*(?:ms|[smhdw])"
_SHORT = re.compile(rf"{_PART}(?:\s*{_PART})*\Z", re.ASCII)
_SHORT_PART = re.compile(r"(\d+)\s*(ms|[smhdw])", re.ASCII)
_SHIFT = re.compile(rf"\s*now((?:\s*[+-]\s*{_PART})+)\s*\Z", re.ASCII)
_SHIFT_PART = re.compile(r"([+-])\s*(\d+)\s*(ms|[smhdw])", re.ASCII)
_ISO = re.compile(
    r"P(?=\d|T\d)(?:(\d{1,9})W)?(?:(\d{1,9})D)?"
    r"(?:T(?=\d)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,6})?)S)?)?\Z",
    re.ASCII,
)

FORMS = 'such as "90s", "1h30m", "7d" or "PT15M"'


def parse_duration(text: str) -> timedelta | None:
    """Return the length ``text`` names, or ``None`` when it names none.

    Months and years are not lengths of time and are not accepted.
    """
    text = text.strip()
    if _SHORT.match(text):
        parts = _SHORT_PART.findall(text)
        return sum((int(count) * _UNITS[unit] for count, unit in parts), timedelta())
    iso = _ISO.match(text)
    if iso is None:
        return None
    weeks, days, hours, minutes, seconds = (float(part or 0) for part in iso.groups())
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)


def parse_shift(text: str) -> timedelta | None:
    """Return the sum of ``now+1d-2h``, or ``None`` when ``text`` is something else."""
    found = _SHIFT.match(text)
    if found is None:
        return None
    total = timedelta()
    for sign, count, unit in _SHIFT_PART.findall(found[1]):
        length = int(count) * _UNITS[unit]
        total = total + length if sign == "+" else total - length
    return total


def format_instant(instant: datetime) -> str:
    """Return an instant in RFC 3339, in UTC: ``2026-03-01T10:00:00Z``."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_instant(text: str) -> datetime | None:
    """Return the instant of an RFC 3339 text with its offset, or ``None``."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant.astimezone(UTC) if instant.tzinfo is not None else None
