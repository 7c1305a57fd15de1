"""Calendars, and schedules that keep off their days."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from ordinaut.engine import schedule
from ordinaut.engine.calendar import Calendar, parse_calendar
from ordinaut.errors import InvalidSchedule
from ordinaut.model import OnExcluded, Schedule

CREATED = datetime(2027, 1, 4, 12, tzinfo=UTC)  # a Monday

ICS = """BEGIN:VCALENDAR
VERSION:2.0
BEGIN:VTIMEZONE
TZID:Europe/Chisinau
BEGIN:STANDARD
DTSTART:19701025T030000
RRULE:FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU
END:STANDARD
END:VTIMEZONE
BEGIN:VEVENT
DTSTART;VALUE=DATE:20200101
DTEND;VALUE=DATE:20200103
RRULE:FREQ=YEARLY
SUMMARY:New Year
END:VEVENT
BEGIN:VEVENT
DTSTART;VALUE=DATE:20270310
SUMMARY:A long na
 me
BEGIN:VALARM
TRIGGER:-PT15M
DTSTART:19990101
END:VALARM
END:VEVENT
BEGIN:VEVENT
DTSTART;TZID=Europe/Chisinau:20270401T220000
DTEND;TZID=Europe/Chisinau:20270402T020000
SUMMARY:Over midnight
END:VEVENT
BEGIN:VEVENT
DTSTART;VALUE=DATE:20270501
DURATION:P1W
EXDATE;VALUE=DATE:20280501
RRULE:FREQ=YEARLY;COUNT=2
SUMMARY:Company holidays
END:VEVENT
BEGIN:VEVENT
DTSTART;VALUE=DATE:20270601
STATUS:CANCELLED
SUMMARY:Called off
END:VEVENT
END:VCALENDAR
"""


def fired(calendar: Calendar, expr: str, policy: OnExcluded, count: int = 4) -> list[str]:
    given = Schedule("rrule", expr, "UTC", CREATED, exclude=(calendar.name,), on_excluded=policy)
    found, _ = schedule.preview(
        given, after=CREATED, count=count, calendars={calendar.name: calendar}
    )
    return [f"{one.at:%a %d %H:%M} {one.note}".strip() for one in found]


@pytest.mark.parametrize(
    ("day", "reason"),
    [
        ("2027-01-01", "New Year"),
        ("2035-01-02", "New Year"),
        ("2027-01-03", None),
        ("2019-01-01", None),
        ("2027-03-10", "A long name"),
        ("2027-04-01", "Over midnight"),
        ("2027-04-02", "Over midnight"),
        ("2027-04-03", None),
        ("2027-05-01", "Company holidays"),
        ("2027-05-07", "Company holidays"),
        ("2027-05-08", None),
        ("2028-05-01", None),
        ("2027-06-01", None),
        ("1999-01-01", None),
    ],
)
def test_days_of_icalendar_text(day: str, reason: str | None) -> None:
    calendar = parse_calendar("holidays", {"ics": ICS})
    assert calendar.reason(date.fromisoformat(day)) == reason


def test_dates_ranges_and_weekdays_say_why() -> None:
    calendar = parse_calendar(
        "mixed",
        {
            "dates": ["2027-03-08"],
            "ranges": [{"from": "2027-12-24", "to": "2028-01-02"}],
            "weekdays": ["sa", "Sunday"],
        },
    )
    assert calendar.reason(date(2027, 3, 8)) == "2027-03-08"
    assert calendar.reason(date(2027, 12, 31)) == "2027-12-24 to 2028-01-02"
    assert calendar.reason(date(2028, 1, 1)) == "Saturday"
    assert calendar.reason(date(2028, 1, 3)) is None


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("skip", ["Tue 05 09:00", "Wed 06 09:00", "Fri 08 09:00", "Mon 11 09:00"]),
        ("next", ["Tue 05 09:00", "Wed 06 09:00", "Fri 08 09:00", "Mon 11 09:00"]),
    ],
)
def test_a_moved_occurrence_and_the_one_already_there_are_one(
    policy: OnExcluded, expected: list[str]
) -> None:
    calendar = parse_calendar("off", {"dates": ["2027-01-07"], "weekdays": ["SA", "SU"]})
    assert fired(calendar, "FREQ=DAILY;BYHOUR=9", policy) == expected


def test_a_weekly_job_on_a_holiday_moves_to_the_next_free_day() -> None:
    calendar = parse_calendar(
        "off", {"dates": ["2027-01-08", "2027-01-11"], "weekdays": ["SA", "SU"]}
    )
    assert fired(calendar, "FREQ=WEEKLY;BYDAY=FR;BYHOUR=9", "next", 2) == [
        "Tue 12 09:00 moved_from_calendar",
        "Fri 15 09:00",
    ]
    assert fired(calendar, "FREQ=WEEKLY;BYDAY=FR;BYHOUR=9", "previous", 2) == [
        "Thu 07 09:00 moved_from_calendar",
        "Fri 15 09:00",
    ]


def test_moved_occurrences_are_in_order_with_those_already_there() -> None:
    calendar = parse_calendar("off", {"weekdays": ["SA", "SU"]})
    assert fired(calendar, "FREQ=DAILY;BYDAY=SA,SU,MO;BYHOUR=9,15;BYSETPOS=1", "next", 3) == [
        "Mon 11 09:00",
        "Mon 18 09:00",
        "Mon 25 09:00",
    ]
    times = {"SA": 15, "SU": 8, "MO": 9}
    several = "\n".join(f"FREQ=WEEKLY;BYDAY={day};BYHOUR={hour}" for day, hour in times.items())
    assert fired(calendar, several, "next", 3) == [
        "Mon 11 08:00 moved_from_calendar",
        "Mon 11 09:00",
        "Mon 11 15:00 moved_from_calendar",
    ]


def test_asked_after_the_excluded_day_the_moved_occurrence_still_comes() -> None:
    calendar = parse_calendar("off", {"weekdays": ["SA", "SU"]})
    given = Schedule("cron", "0 9 * * 6", "UTC", CREATED, exclude=("off",), on_excluded="next")
    compiled = schedule.compile_schedule(given, calendars={"off": calendar})
    found = compiled.next(datetime(2027, 1, 10, 20, tzinfo=UTC))
    assert found is not None
    assert (found.at, found.note) == (
        datetime(2027, 1, 11, 9, tzinfo=UTC),
        schedule.NOTE_MOVED,
    )


def test_the_ledger_learns_what_was_excluded_and_why() -> None:
    calendar = parse_calendar("off", {"dates": ["2027-01-07"]})
    given = Schedule("cron", "0 9,12 * * *", "UTC", CREATED, exclude=("off",))
    compiled = schedule.compile_schedule(given, calendars={"off": calendar})
    found = compiled.excluded_between(CREATED, datetime(2027, 1, 7, 12, tzinfo=UTC), limit=10)
    assert [(one.at.hour, one.verdict, one.reason) for one in found] == [
        (9, "skipped_calendar", 'calendar "off": 2027-01-07'),
        (12, "skipped_calendar", 'calendar "off": 2027-01-07'),
    ]


def test_the_ledger_learns_what_the_clock_change_took() -> None:
    given = Schedule("cron", "30 2 * * *", "America/New_York", CREATED, dst_gap="skip")
    compiled = schedule.compile_schedule(given)
    until = datetime(2027, 4, 1, tzinfo=UTC)
    (one,) = compiled.excluded_between(CREATED, until, limit=10)
    assert one.verdict == "skipped_dst"
    assert one.reason == "02:30:00 does not exist on 2027-03-14 in America/New_York"
    assert compiled.excluded_between(one.at, until, limit=10) == []


def test_days_are_local_days() -> None:
    calendar = parse_calendar("off", {"dates": ["2027-01-07"]})
    given = Schedule("cron", "0 1 * * *", "Europe/Chisinau", CREATED, exclude=("off",))
    compiled = schedule.compile_schedule(given, calendars={"off": calendar})
    found = compiled.between(CREATED, datetime(2027, 1, 9, tzinfo=UTC), limit=10)
    assert [f"{one.local:%d}" for one in found] == ["05", "06", "08", "09"]


@pytest.mark.parametrize(
    ("definition", "path"),
    [
        ([], "definition"),
        ({"days": []}, "days"),
        ({"dates": "2027-01-01"}, "dates"),
        ({"dates": ["2027-01-01", "2027-02-30"]}, "dates[1]"),
        ({"dates": [20270101]}, "dates[0]"),
        ({"ranges": [{"from": "2027-01-02"}]}, "ranges[0]"),
        ({"ranges": [{"from": "2027-01-02", "to": "2027-01-01"}]}, "ranges[0]"),
        ({"ranges": [{"from": "2027-01-02", "to": "soon"}]}, "ranges[0].to"),
        ({"weekdays": ["Caturday"]}, "weekdays[0]"),
        ({"weekdays": ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]}, "weekdays"),
        ({"country": 5}, "country"),
        ({"country": "XX"}, "country"),
        ({"ics": 5}, "ics"),
        ({"ics": "hello"}, "ics"),
        ({"ics": "BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:x\nEND:VEVENT\n"}, "ics"),
        ({"ics": ICS.replace("FREQ=YEARLY\n", "FREQ=HOURLY\n")}, "ics"),
        ({"ics": ICS.replace("FREQ=YEARLY\n", "FREQ=YEARLY;BYMONTH=13\n")}, "ics"),
        ({"ics": ICS.replace("20270310", "20270230")}, "ics"),
    ],
)
def test_a_wrong_calendar_is_refused_at_the_place(definition: Any, path: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        parse_calendar("c", definition)
    assert caught.value.problems[0].path == path


def test_a_schedule_that_only_fires_on_excluded_days_is_refused() -> None:
    calendar = parse_calendar("off", {"weekdays": ["SA", "SU"]})
    given = Schedule("cron", "0 9 * * 6", "UTC", CREATED, exclude=("off",))
    with pytest.raises(InvalidSchedule) as caught:
        schedule.compile_schedule(given, calendars={"off": calendar})
    assert caught.value.problems[0].path == "exclude"


def test_elapsed_time_can_not_move_to_another_day() -> None:
    calendar = parse_calendar("off", {"weekdays": ["SA", "SU"]})
    given = Schedule("interval", "PT1H", "UTC", CREATED, exclude=("off",), on_excluded="next")
    with pytest.raises(InvalidSchedule) as caught:
        schedule.compile_schedule(given, calendars={"off": calendar})
    assert caught.value.problems[0].path == "on_excluded"


def test_public_holidays_of_a_country() -> None:
    calendar = parse_calendar("public", {"country": "MD"})
    assert calendar.reason(date(2027, 1, 1)) is not None
    assert calendar.reason(date(2027, 1, 2)) is None
