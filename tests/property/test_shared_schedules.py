"""What the tick computes at its ease is what the schedule itself would say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from ordinaut.engine.schedule import compile_schedule, interval_after
from ordinaut.errors import InvalidSchedule
from ordinaut.model import Schedule
from ordinaut.scheduler.shared import Memory, shared_form

FREQS = ("SECONDLY", "MINUTELY", "HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY")
PARTS = (
    "BYDAY=MO,FR", "BYDAY=TU", "BYMONTHDAY=1,15", "BYMONTHDAY=-1", "BYYEARDAY=100,-1",
    "BYMONTH=2,7", "BYHOUR=9,17", "BYMINUTE=0,30", "BYSECOND=0", "BYSETPOS=1", "BYSETPOS=-1",
    "INTERVAL=2",
    "INTERVAL=1", "COUNT=50", "UNTIL=20290101T000000Z", "WKST=SU", "BYWEEKNO=20", "INTERVAL=10",
)  # fmt: skip
CRONS = ("*/5 * * * *", "0 9 * * 1-5", "30 2 * * *", "15 0 1 * *", "*/10 * * * * *", "0 0 29 2 *")
ZONES = ("UTC", "Europe/Chisinau", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")

rules = st.builds(
    lambda freq, parts: ";".join([f"FREQ={freq}", *parts]),
    st.sampled_from(FREQS),
    st.lists(st.sampled_from(PARTS), unique_by=lambda part: part.split("=")[0], max_size=4),
)
with_start = st.builds("DTSTART:20240110T083000\nRRULE:{}".format, rules)
expressions = st.one_of(
    st.tuples(st.just("rrule"), rules),
    st.tuples(st.just("rrule"), with_start),
    st.tuples(st.just("cron"), st.sampled_from(CRONS)),
)
anchors = st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31)).map(
    lambda naive: naive.replace(tzinfo=UTC)
)


@settings(max_examples=400, deadline=None)
@given(
    expressions,
    anchors,
    st.sampled_from(ZONES),
    st.sampled_from(("shift", "skip")),
    st.sampled_from(("first", "last", "both")),
    st.timedeltas(timedelta(0), timedelta(days=500)),
)
def test_the_shared_form_fires_when_the_schedule_does(kind_and_expr, anchor, zone, gap, fold, age):
    kind, expr = kind_and_expr
    schedule = Schedule(kind, expr, zone, anchor, dst_gap=gap, dst_fold=fold)
    try:
        own = compile_schedule(schedule)
    except InvalidSchedule:
        return
    shared = compile_schedule(shared_form(schedule))
    after = anchor + age
    found = own.between(after, after + timedelta(days=800), limit=20)

    assert shared.between(after, after + timedelta(days=800), limit=20) == found
    if found:
        until = found[-1].at
        taken = own.excluded_between(after, until, limit=20)
        assert shared.excluded_between(after, until, limit=20) == taken


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(expressions, anchors, st.sampled_from(ZONES)), min_size=1, max_size=6),
    st.datetimes(datetime(2028, 1, 1), datetime(2029, 1, 1)),
)
def test_what_is_remembered_is_the_schedules_own_next(several, naive):
    memory, after = Memory({}), naive.replace(tzinfo=UTC)
    for (kind, expr), anchor, zone in several * 2:
        schedule = Schedule(kind, expr, zone, anchor)
        try:
            own = compile_schedule(schedule).next(after)
        except InvalidSchedule:
            continue
        assert memory.next(schedule, after) == (own and own.at)


instants = st.datetimes(datetime(1999, 1, 1), datetime(2040, 1, 1)).flatmap(
    lambda naive: st.sampled_from([UTC, *map(ZoneInfo, ZONES)]).map(
        lambda info: naive.replace(tzinfo=UTC).astimezone(info)
    )
)


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(
        st.builds("PT{}S".format, st.integers(1, 200_000)),
        st.builds("P{}D".format, st.integers(1, 36_600)),
    ),
    instants,
    st.none() | instants,
    st.none() | st.timedeltas(timedelta(0), timedelta(days=9_000)),
    instants,
)
def test_an_interval_by_arithmetic_is_the_interval(expr, anchor, starts_at, lasts, after):
    ends_at = None if lasts is None else (starts_at or anchor) + lasts
    schedule = Schedule("interval", expr, "UTC", anchor, starts_at, ends_at)
    own = compile_schedule(schedule).next(after)

    found = interval_after(schedule, after)

    assert found == (own and own.at)
    if found is not None:
        assert found.tzinfo is UTC
        following = compile_schedule(schedule).next(found)
        assert interval_after(schedule, found) == (following and following.at)


def test_an_interval_by_arithmetic_ends_with_time():
    last = datetime(9998, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
    for expr, anchor in (
        ("PT1S", last - timedelta(seconds=2)),
        ("PT7S", last - timedelta(seconds=7)),
        ("P36600D", last - timedelta(days=36_600)),
    ):
        schedule = Schedule("interval", expr, "UTC", anchor)
        compiled = compile_schedule(schedule)
        for after in (anchor, last - timedelta(seconds=1), last, last + timedelta(seconds=1)):
            own = compiled.next(after)
            assert interval_after(schedule, after) == (own and own.at)
    assert interval_after(schedule, last) is None
