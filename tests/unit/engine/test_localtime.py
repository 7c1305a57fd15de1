"""Zones as spans, against what zoneinfo says hour by hour."""

from __future__ import annotations

import struct
import zoneinfo
from datetime import UTC, datetime, timedelta
from importlib import resources
from zoneinfo import ZoneInfo

import pytest

from ordinaut.engine.localtime import (
    DAY,
    HOUR,
    Zone,
    parse_time,
    shown,
    to_instant,
    to_utc,
    tzdata_version,
    wall_of,
    zone,
)
from ordinaut.errors import InvalidSchedule

ODD_ZONES = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Boa_Vista",
    "America/Noronha",
    "America/Sao_Paulo",
    "Antarctica/Troll",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Chisinau",
    "Pacific/Apia",
]


def seconds(info: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, info).utcoffset()
    assert offset is not None
    return offset // timedelta(seconds=1)


def test_the_system_copy_of_tzdata_is_not_used() -> None:
    assert zoneinfo.TZPATH == ()
    assert tzdata_version()[:2] == "20"
    # Debian 12's own copy has this change two hours after midnight UTC minus one.
    spring = zone("Europe/Chisinau").span(to_instant(datetime(2027, 3, 28, 12, tzinfo=UTC)))
    assert to_utc(spring.start) == datetime(2027, 3, 28, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ODD_ZONES)
def test_spans_agree_with_zoneinfo_at_every_quarter_of_an_hour(name: str) -> None:
    fresh = Zone(name, ZoneInfo(name))
    start = to_instant(datetime(1999, 12, 1, tzinfo=UTC))
    for instant in range(start, start + 420 * DAY, HOUR // 4):
        assert fresh.offset(instant) == seconds(fresh.info, instant)


def changes(name: str) -> list[int]:
    """Return the instants since 1970 that the tzdata wheel lists for a zone (RFC 8536)."""
    data = resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    header = struct.Struct(">4sc15x6l")
    *_, isut, isstd, leap, count, types, letters = header.unpack_from(data)
    second = 44 + count * 5 + types * 6 + letters + leap * 8 + isstd + isut
    *_, count, types, _ = header.unpack_from(data, second)
    listed = struct.unpack_from(f">{count}q", data, second + 44)
    return [instant for instant in listed if instant >= 0]


def test_every_change_of_every_zone_is_found() -> None:
    for name in sorted(zoneinfo.available_timezones()):
        fresh = Zone(name, ZoneInfo(name))
        for change in changes(name):
            for instant in (change - 1, change):
                assert fresh.offset(instant) == seconds(fresh.info, instant), name


def test_a_cut_between_spans_is_far_from_every_change() -> None:
    for name in ODD_ZONES:
        here = zone(name)
        instant = to_instant(datetime(1990, 1, 1, tzinfo=UTC))
        end = to_instant(datetime(2037, 1, 1, tzinfo=UTC))
        while instant < end:
            span = here.span(instant)
            before = here.span(span.start - 1)
            if before.offset == span.offset:
                assert here.offset(span.start - 2 * DAY) == here.offset(span.start + 2 * DAY)
            instant = span.end


def test_a_wall_time_exists_once_twice_or_never() -> None:
    here = zone("America/New_York")
    assert len(here.instants(wall_of(datetime(2027, 3, 14, 1, 59, 59)))) == 1
    assert here.instants(wall_of(datetime(2027, 3, 14, 2, 30))) == ()
    assert len(here.instants(wall_of(datetime(2027, 3, 14, 3, 0)))) == 1
    twice = here.instants(wall_of(datetime(2027, 11, 7, 1, 30)))
    assert [to_utc(at).hour for at in twice] == [5, 6]


def test_a_wall_time_in_a_gap_resolves_with_the_offset_before() -> None:
    here = zone("America/New_York")
    at = here.resolve(wall_of(datetime(2027, 3, 14, 2, 30)))
    assert here.at(at).isoformat() == "2027-03-14T03:30:00-04:00"


def test_far_past_and_far_future_have_offsets() -> None:
    here = zone("Europe/Chisinau")
    assert here.offset(-(10**12)) == here.offset(-(10**11))
    assert here.offset(10**15) in (2 * HOUR, 3 * HOUR)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Europe/Chisnau", "Europe/Chisinau"),
        ("america/new_york", "America/New_York"),
        ("Asia/Katmandoo", "Asia/Katmandu"),
    ],
)
def test_an_unknown_zone_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        zone(name)
    assert f'did you mean "{near}"?' in caught.value.message


@pytest.mark.parametrize("name", ["", "../UTC", "/etc/localtime", "UTC\x00", "x" * 10_000])
def test_a_zone_is_a_name_and_never_a_path(name: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        zone(name)
    assert len(caught.value.message) < 200
    assert "\x00" not in caught.value.message


def test_times_are_read_with_and_without_an_offset() -> None:
    assert parse_time("2027-03-01T09:00:00Z") == datetime(2027, 3, 1, 9, tzinfo=UTC)
    assert parse_time("2027-03-01t09:00:00.5+02:00").isoformat().endswith("09:00:00.500000+02:00")
    assert parse_time("2027-03-01 09:00").tzinfo is None


def test_quoted_input_is_printable_and_short() -> None:
    assert shown("a\nb\x1b[31m") == '"a\\nb\\x1b[31m"'
    assert len(shown("x" * 1_000)) == 62
