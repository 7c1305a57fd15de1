"""What must hold for every schedule, whatever it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest
from cronsim import CronSim, CronSimError
from dateutil.rrule import rrulestr
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ordinaut.engine import schedule
from ordinaut.engine.calendar import parse_calendar
from ordinaut.engine.localtime import zone
from ordinaut.errors import InvalidSchedule
from ordinaut.model import Schedule

ZONES = (
    "UTC",
    "Europe/Chisinau",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
)
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
COARSE = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY")
FINE = ("HOURLY", "MINUTELY", "SECONDLY")

# Around the changes of 2011 (Apia), 2018 (São Paulo) and everything since.
moments = st.datetimes(datetime(2009, 1, 1), datetime(2030, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)


def some(values: list[int], *, at_most: int = 3) -> st.SearchStrategy[str]:
    chosen = st.lists(st.sampled_from(values), min_size=1, max_size=at_most, unique=True)
    return chosen.map(lambda numbers: ",".join(map(str, numbers)))


@st.composite
def rules(draw: st.DrawFn, freqs: tuple[str, ...] = COARSE + FINE) -> str:
    freq = draw(st.sampled_from(freqs))
    optional: dict[str, st.SearchStrategy[str]] = {
        "INTERVAL": st.integers(1, 14).map(str),
        "WKST": st.sampled_from(WEEKDAYS),
        "BYMONTH": some(list(range(1, 13))),
        "BYHOUR": some(list(range(24))),
        "BYMINUTE": some([0, 10, 15, 30, 45, 59]),
        "BYSECOND": some([0, 15, 59]),
        "BYDAY": st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=4, unique=True).map(
            ",".join
        ),
    }
    if freq != "WEEKLY":
        optional["BYMONTHDAY"] = some([1, 5, 13, 15, 28, 29, 30, 31, -1, -2, -31])
    if freq in ("YEARLY", *FINE):
        optional["BYYEARDAY"] = some([1, 60, 100, 200, 365, 366, -1, -100, -366])
    parts = {"FREQ": freq}
    for name in draw(st.lists(st.sampled_from(sorted(optional)), max_size=4, unique=True)):
        parts[name] = draw(optional[name])
    if any(name.startswith("BY") for name in parts) and draw(st.booleans()):
        parts["BYSETPOS"] = draw(some([1, 2, 3, -1, -2], at_most=2))
    if draw(st.integers(0, 3)) == 0:
        parts["COUNT"] = str(draw(st.integers(1, 40)))
    return ";".join(f"{name}={value}" for name, value in parts.items())


@st.composite
def crons(draw: st.DrawFn) -> str:
    def field(low: int, high: int) -> str:
        number = st.integers(low, high)
        pair = st.tuples(number, number).map(sorted)
        return draw(
            st.one_of(
                st.just("*"),
                st.integers(2, 20).map("*/{}".format),
                number.map(str),
                pair.map(lambda ends: f"{ends[0]}-{ends[1]}"),
                st.tuples(number, number).map(lambda two: f"{two[0]},{two[1]}"),
            )
        )

    day = draw(st.sampled_from(["*", "*", "L", "LW", "1", "15", "29-31", "*/2"]))
    weekday = draw(st.sampled_from(["*", "*", "1-5", "0", "7", "MON,FRI", "5L", "2#2", "*/2"]))
    month = draw(st.sampled_from(["*", "*", "2", "3,10,11", "MAR-APR"]))
    return f"{field(0, 59)} {field(0, 23)} {day} {month} {weekday}"


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    kind = draw(st.sampled_from(["rrule", "cron", "interval"]))
    expr = {
        "rrule": rules(),
        "cron": crons(),
        "interval": st.integers(60, 500_000).map("PT{}S".format),
    }[kind]
    return Schedule(
        kind,  # type: ignore[arg-type]  # hypothesis draws a plain str
        draw(expr),
        draw(st.sampled_from(ZONES)),
        anchor=draw(moments),
        starts_at=draw(st.none() | moments),
        dst_gap=draw(st.sampled_from(["shift", "skip"])),  # type: ignore[arg-type]
        dst_fold=draw(st.sampled_from(["first", "last", "both"])),  # type: ignore[arg-type]
    )


def compiled(given_schedule: Schedule, **options: Any) -> schedule.CompiledSchedule:
    try:
        return schedule.compile_schedule(given_schedule, **options)
    except InvalidSchedule as refused:
        assume("can never fire" not in refused.message)
        raise


@given(schedules(), moments)
def test_occurrences_increase_and_come_after_the_question(one: Schedule, after: datetime) -> None:
    found = list(islice(compiled(one).iterate(after), 20))
    assert all(earlier.at < later.at for earlier, later in pairwise(found))
    assert all(occurrence.at > after for occurrence in found)
    # Python calls times in a fold equal to nothing in another zone, so both are compared in UTC.
    assert all(occurrence.local.astimezone(UTC) == occurrence.at for occurrence in found)
    assert one.starts_at is None or all(one.starts_at <= occurrence.at for occurrence in found)


@given(schedules(), moments)
def test_asking_one_by_one_gives_the_same_as_asking_for_all(one: Schedule, after: datetime) -> None:
    engine = compiled(one)
    at_once = list(islice(engine.iterate(after), 8))
    one_by_one = []
    cursor = after
    while len(one_by_one) < len(at_once):
        following = engine.next(cursor)
        assert following is not None
        one_by_one.append(following)
        cursor = following.at
    assert one_by_one == at_once
    if at_once:
        assert engine.between(after, at_once[-1].at, limit=8) == at_once


@given(schedules(), moments, st.timedeltas(timedelta(0), timedelta(days=40)))
def test_the_answer_does_not_depend_on_where_the_question_starts(
    one: Schedule, after: datetime, earlier: timedelta
) -> None:
    engine = compiled(one)
    until = after + timedelta(days=3)
    from_earlier = engine.between(after - earlier, until, limit=2_000)
    assume(len(from_earlier) < 2_000)
    expected = [occurrence for occurrence in from_earlier if occurrence.at > after]
    assert engine.between(after, until, limit=2_000) == expected


@given(schedules(), moments)
def test_what_is_taken_away_and_what_is_left_are_the_whole(one: Schedule, after: datetime) -> None:
    weekend = parse_calendar("weekend", {"weekdays": ["SA", "SU"]})
    until = after + timedelta(days=20)
    everything = compiled(one).between(after, until, limit=1_000)
    assume(len(everything) < 1_000)
    excluding = Schedule(
        one.kind,
        one.expr,
        one.timezone,
        one.anchor,
        starts_at=one.starts_at,
        dst_gap=one.dst_gap,
        dst_fold=one.dst_fold,
        exclude=("weekend",),
    )
    try:
        engine = schedule.compile_schedule(excluding, calendars={"weekend": weekend})
    except InvalidSchedule as refused:
        assume("excluded day" not in refused.message)
        raise
    kept = engine.between(after, until, limit=1_000)
    removed = engine.excluded_between(after, until, limit=5_000)
    by_calendar = [one.at for one in removed if one.verdict == "skipped_calendar"]
    assert sorted([one.at for one in kept] + by_calendar) == [one.at for one in everything]
    assert all(one.local.weekday() < 5 for one in kept)
    assert all(one.local.weekday() >= 5 for one in removed if one.verdict == "skipped_calendar")


@given(rules(), st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)))
@settings(deadline=None)
@example("FREQ=YEARLY;BYMONTHDAY=29", datetime(2023, 3, 1))
@example("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=-1;INTERVAL=5", datetime(2024, 2, 29, 8))
def test_rules_agree_with_dateutil_where_it_is_right(rule: str, start: datetime) -> None:
    # Its first week is cut off at DTSTART before BYSETPOS is applied.
    assume(not ("WEEKLY" in rule and "BYSETPOS" in rule))
    # It walks second by second to the first match.
    assume(not any(f"FREQ={freq}" in rule and "BY" in rule for freq in ("SECONDLY", "MINUTELY")))
    assume(not ("HOURLY" in rule and ("BYMONTH" in rule or "BYYEARDAY" in rule)))
    start = start.replace(microsecond=0)
    expr = f"DTSTART:{start:%Y%m%dT%H%M%S}Z\nRRULE:{rule}"
    engine = compiled(Schedule("rrule", expr, "UTC", anchor=start.replace(tzinfo=UTC)))
    found = [one.at for one in islice(engine.iterate(datetime(1980, 1, 1, tzinfo=UTC)), 10)]
    oracle = rrulestr(rule, dtstart=start)
    expected = [one.replace(tzinfo=UTC) for one in islice(oracle, 10)]
    assert found == expected


@given(crons(), st.sampled_from(ZONES), moments)
@settings(deadline=None)
@example("30 2 * * *", "America/New_York", datetime(2027, 3, 14, tzinfo=UTC))
@example("30 1 * * *", "America/New_York", datetime(2027, 11, 7, tzinfo=UTC))
@example("*/20 * * * *", "Australia/Lord_Howe", datetime(2027, 4, 3, 14, tzinfo=UTC))
@example("15 2 * * *", "Australia/Lord_Howe", datetime(2027, 10, 2, tzinfo=UTC))
def test_cron_agrees_with_cronsim(expr: str, name: str, after: datetime) -> None:
    minute, hour = expr.split()[:2]
    # Its steps of an hour jump over matches next to a change of half an hour.
    assume(not (name == "Australia/Lord_Howe" and minute.startswith("*") and hour != "*"))
    assume(not (name == "Australia/Lord_Howe" and hour.startswith("*/")))
    local = after.astimezone(zone(name).info)
    try:
        oracle = CronSim(expr, local)
    except CronSimError:
        assume(False)
    expected: list[datetime] = []
    for one in islice(oracle, 12):
        # Times of one gap come one by one there, all at its end; an instant fires once here.
        if one.astimezone(UTC) not in expected and one.astimezone(UTC) > after:
            expected.append(one.astimezone(UTC))
    assume(expected)
    engine = compiled(Schedule("cron", expr, name, anchor=after))
    assert [one.at for one in islice(engine.iterate(after), len(expected))] == sorted(expected)


def test_properties_are_checked_in_zones_that_exist() -> None:
    assert [zone(name).name for name in ZONES] == list(ZONES)
    with pytest.raises(InvalidSchedule):
        zone("Europe/Atlantis")


@given(
    st.sampled_from(["rrule", "cron", "interval", "once", "event", "condition"]),
    st.one_of(
        st.text(max_size=60),
        st.text(alphabet="FREQ=DAILYSECOND;BY:,-0123456789\n ", max_size=60),
        st.text(alphabet="*/-,0123456789LW#@ MONJAN", max_size=30),
    ),
)
@settings(deadline=2_000)
def test_any_text_is_understood_or_refused_at_once(kind: Any, text: str) -> None:
    one = Schedule(kind, text, "Europe/Chisinau", anchor=datetime(2027, 1, 5, tzinfo=UTC))
    try:
        schedule.compile_schedule(one).next(one.anchor)
    except InvalidSchedule as refused:
        (problem,) = refused.problems
        assert problem.path == "schedule_expr"
        assert len(problem.message) < 600
