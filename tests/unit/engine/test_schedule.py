"""The public face of the time engine: compile, next, between, preview."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from ordinaut.engine import schedule
from ordinaut.engine.calendar import parse_calendar
from ordinaut.errors import InvalidSchedule
from ordinaut.model import Schedule

CREATED = datetime(2027, 1, 5, 14, 23, 11, 250_000, tzinfo=UTC)  # a Tuesday


def rrule(expr: str, **fields: object) -> Schedule:
    return Schedule("rrule", expr, "Europe/Chisinau", CREATED)._replace(**fields)  # type: ignore[arg-type]


def times(given: Schedule, *, after: datetime = CREATED, count: int = 3) -> list[str]:
    found, _ = schedule.preview(given, after=after, count=count)
    return [occurrence.local.strftime("%Y-%m-%d %H:%M:%S") for occurrence in found]


def problem(given: Schedule) -> tuple[str, str]:
    with pytest.raises(InvalidSchedule) as caught:
        schedule.compile_schedule(given)
    (found,) = caught.value.problems
    return found.path, found.message


def test_a_bare_daily_rule_fires_at_midnight_from_the_day_after_creation() -> None:
    assert times(rrule("FREQ=DAILY"), count=2) == ["2027-01-06 00:00:00", "2027-01-07 00:00:00"]


def test_a_bare_hourly_rule_is_anchored_at_the_hour_of_creation() -> None:
    assert times(rrule("FREQ=HOURLY;INTERVAL=2"), count=2) == [
        "2027-01-05 18:00:00",
        "2027-01-05 20:00:00",
    ]


def test_a_bare_rule_takes_its_omitted_parts_from_starts_at() -> None:
    given = rrule("FREQ=WEEKLY", starts_at=datetime(2027, 2, 3, 7, 30, 15, tzinfo=UTC))
    assert times(given, count=2) == ["2027-02-03 09:30:15", "2027-02-10 09:30:15"]


@pytest.mark.parametrize("after_days", [0, 1, 3, 50])
def test_interval_keeps_its_anchor_wherever_it_is_asked(after_days: int) -> None:
    after = CREATED + timedelta(days=after_days)
    found = times(rrule("FREQ=DAILY;INTERVAL=3;BYHOUR=9"), after=after, count=1)[0]
    days = (datetime.fromisoformat(found).date() - CREATED.date()).days
    assert days % 3 == 0


def test_count_counts_from_creation_and_not_from_the_question() -> None:
    given = rrule("FREQ=DAILY;BYHOUR=9;COUNT=3")
    assert len(times(given, count=10)) == 3
    assert times(given, after=CREATED + timedelta(days=2), count=10) == ["2027-01-08 09:00:00"]


def test_a_count_creates_exactly_that_many_runs_after_creation() -> None:
    midnight = datetime(2027, 1, 5, tzinfo=UTC)
    on_the_dot = rrule("FREQ=DAILY;COUNT=3", timezone="UTC", anchor=midnight)
    assert len(times(on_the_dot, after=midnight, count=10)) == 3


def test_preview_says_when_no_more_follow() -> None:
    _, finished = schedule.preview(rrule("FREQ=DAILY;COUNT=3"), after=CREATED, count=3)
    assert finished
    _, finished = schedule.preview(rrule("FREQ=DAILY;COUNT=4"), after=CREATED, count=3)
    assert not finished


def test_between_includes_its_end_and_not_its_beginning() -> None:
    compiled = schedule.compile_schedule(rrule("FREQ=DAILY;BYHOUR=9"))
    first = compiled.next(CREATED)
    assert first is not None
    found = compiled.between(first.at, first.at + timedelta(days=2), limit=10)
    assert [one.at for one in found] == [first.at + timedelta(days=1), first.at + timedelta(days=2)]


def test_starts_at_and_ends_at_are_inclusive() -> None:
    given = Schedule(
        "cron",
        "0 9 * * *",
        "UTC",
        CREATED,
        starts_at=datetime(2027, 1, 7, 9, tzinfo=UTC),
        ends_at=datetime(2027, 1, 8, 9, tzinfo=UTC),
    )
    assert times(given) == ["2027-01-07 09:00:00", "2027-01-08 09:00:00"]


def test_an_interval_keeps_the_fraction_of_a_second_it_starts_at() -> None:
    given = Schedule("interval", "PT1H", "UTC", CREATED)
    compiled = schedule.compile_schedule(given)
    found = compiled.next(CREATED)
    assert found is not None
    assert found.at == CREATED + timedelta(hours=1)


def test_an_interval_with_a_start_fires_at_the_start() -> None:
    start = datetime(2027, 1, 6, 12, 0, tzinfo=UTC)
    given = Schedule("interval", "P1D", "UTC", CREATED, starts_at=start)
    assert times(given, count=2) == ["2027-01-06 12:00:00", "2027-01-07 12:00:00"]


def test_once_keeps_its_fraction_of_a_second() -> None:
    given = Schedule("once", "2027-03-01T09:00:00.123456+02:00", "UTC", CREATED)
    found = schedule.compile_schedule(given).next(CREATED)
    assert found is not None
    assert found.at == datetime(2027, 3, 1, 7, 0, 0, 123_456, tzinfo=UTC)
    assert schedule.compile_schedule(given).next(found.at) is None


def test_moved_occurrences_keep_their_time_and_fire_once() -> None:
    weekend = parse_calendar("weekend", {"weekdays": ["SA", "SU"]})
    given = rrule("FREQ=DAILY;BYHOUR=9", exclude=("weekend",), on_excluded="next")
    friday = datetime(2027, 1, 8, 12, tzinfo=UTC)
    found, _ = schedule.preview(given, after=friday, count=2, calendars={"weekend": weekend})
    assert [(one.local.isoformat(), one.note) for one in found] == [
        ("2027-01-11T09:00:00+02:00", ""),
        ("2027-01-12T09:00:00+02:00", ""),
    ]


def test_jitter_is_the_same_for_the_same_occurrence_and_within_its_bound() -> None:
    task = UUID(int=7)
    found = {schedule.jitter(task, CREATED + timedelta(hours=h), 60) for h in range(100)}
    assert schedule.jitter(task, CREATED, 60) == schedule.jitter(task, CREATED, 60)
    assert len(found) > 90
    assert timedelta(0) <= min(found)
    assert max(found) <= timedelta(seconds=60)
    assert schedule.jitter(task, CREATED, 0) == timedelta(0)


@pytest.mark.parametrize(
    "expr",
    [
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MINUTELY;INTERVAL=60;BYMINUTE=7",
        "DTSTART:19700101T000000Z\nRRULE:FREQ=SECONDLY;INTERVAL=60;BYSECOND=1",
        "DTSTART:20270105T000000Z\nRRULE:FREQ=DAILY;INTERVAL=7;BYDAY=MO",
        "FREQ=YEARLY;BYWEEKNO=53;BYMONTH=6",
        "FREQ=MONTHLY;BYDAY=6MO",
        "FREQ=DAILY\nEXRULE:FREQ=DAILY",
        "FREQ=YEARLY\nEXRULE:FREQ=SECONDLY",
        "FREQ=HOURLY;INTERVAL=7;BYDAY=MO;BYMONTH=3\nEXRULE:FREQ=HOURLY;BYDAY=MO",
    ],
)
def test_a_rule_that_can_never_fire_is_refused_at_once(expr: str) -> None:
    started = time.perf_counter()
    path, message = problem(rrule(expr))
    assert path == "schedule_expr"
    assert "can never fire" in message
    assert time.perf_counter() - started < 0.5  # 50 ms on an idle machine


def test_a_gap_that_is_too_long_to_search_is_never_taken_for_the_end() -> None:
    """Every second but at night: the nine hours take too long to look through, and go on after."""
    anchor = datetime(2027, 1, 1, 12, tzinfo=UTC)
    night = "BYHOUR=22,23,0,1,2,3,4,5,6"
    given = Schedule("rrule", f"RRULE:FREQ=SECONDLY\nEXRULE:FREQ=SECONDLY;{night}", "UTC", anchor)
    evening = datetime(2027, 1, 1, 21, 59, 58, tzinfo=UTC)
    compiled = schedule.compile_schedule(given)

    last = compiled.next(evening)

    assert last is not None
    assert last.at == evening + timedelta(seconds=1)
    with pytest.raises(InvalidSchedule, match="taken away"):
        compiled.next(last.at)
    days = "BYHOUR=7,8,9,10,11,12,13,14,15,16,17,18,19,20,21"
    said = Schedule("rrule", f"RRULE:FREQ=SECONDLY;{days}", "UTC", anchor)
    morning = schedule.compile_schedule(said).next(last.at)
    assert morning is not None
    assert morning.at == datetime(2027, 1, 2, 7, tzinfo=UTC)


def test_what_excludes_may_be_far_denser_than_what_fires() -> None:
    """A rule of seconds against one of years would be half a minute of steps for each year."""
    anchor = datetime(2027, 1, 1, tzinfo=UTC)
    expr = "DTSTART:20270101T000001Z\nRRULE:FREQ=YEARLY\nEXRULE:FREQ=SECONDLY;BYHOUR=1"
    given = Schedule("rrule", expr, "UTC", anchor=anchor)
    started = time.perf_counter()

    found, _ = schedule.preview(given, after=anchor, count=3)

    assert [one.at.year for one in found] == [2027, 2028, 2029]
    assert time.perf_counter() - started < 0.5
