"""A tick that takes its time decides what one big tick decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from ordinaut.engine.calendar import parse_calendar
from ordinaut.model import NOBODY, Schedule
from ordinaut.scheduler import plan as planning
from ordinaut.scheduler.catchup import Absences
from ordinaut.scheduler.shared import Memory
from ordinaut.store.pulse import Downtime
from ordinaut.store.schedules import Pause, Timed

START = datetime(2026, 3, 27, tzinfo=UTC)  # two days before the clocks change in Chisinau
NOW = START + timedelta(days=5)
POLICIES = ("last", "all", "none")
CALENDARS = {"closed": parse_calendar("closed", {"weekdays": ["SU"], "dates": ["2026-03-31"]})}

hours = st.integers(0, 110)


@st.composite
def absences(draw):
    """Pauses, then downtimes, each in order and apart."""
    cuts = sorted(draw(st.sets(hours, min_size=8, max_size=8)))
    spans = [
        (START + timedelta(hours=a, minutes=7), START + timedelta(hours=b, minutes=7))
        for a, b in zip(cuts[::2], cuts[1::2], strict=True)
    ]
    paused = draw(st.lists(st.booleans(), min_size=4, max_size=4))
    policies = draw(st.lists(st.sampled_from((*POLICIES, None)), min_size=4, max_size=4))
    found = list(zip(spans, paused, policies, strict=True))
    return (
        [Pause(*span, policy) for span, is_pause, policy in found if is_pause],
        [Downtime(*span) for span, is_pause, _ in found if not is_pause],
    )


@st.composite
def tasks(draw):
    schedule = Schedule(
        "cron",
        draw(st.sampled_from(["0 * * * *", "*/20 * * * *", "30 1-5 * * *"])),
        "Europe/Chisinau",
        START,
        dst_gap=draw(st.sampled_from(["shift", "skip"])),
        exclude=draw(st.sampled_from([(), ("closed",)])),
    )
    snoozed = draw(st.booleans())
    return Timed(
        task_id=UUID(int=1),
        version=1,
        active=True,
        schedule=schedule,
        priority=5,
        catchup=draw(st.sampled_from(POLICIES)),
        catchup_window_seconds=draw(st.sampled_from([0, 3600, 86_400, 10**7])),
        overlap=draw(st.sampled_from(["allow", "skip"])),
        jitter_seconds=0,
        max_runs=draw(st.sampled_from([None, None, 5, 40])),
        concurrency_key=None,
        max_concurrency=1,
        rate_limit=None,
        created_by=NOBODY,
        next_run_at=START + timedelta(hours=1),
        decided_until=START,
        fired=0,
        resumed_at=NOW - timedelta(minutes=1),
        snoozed_for=START if snoozed else None,
        snoozed_to=START + timedelta(hours=draw(hours), seconds=30) if snoozed else None,
    )


def decided(task: Timed, pauses, downtimes, *, chunk: int) -> dict[datetime, str]:
    """Plan again and again, as ticks would, until nothing is due."""
    told: dict[datetime, str] = {}
    live = False
    while True:
        around = Absences(
            pauses,
            downtimes,
            catchup=task.catchup,
            window=timedelta(seconds=task.catchup_window_seconds),
        )
        found = planning.plan(
            task, Memory(CALENDARS), now=NOW, absences=around, live=live, chunk=chunk
        )
        for at, verdict in [
            *((w.scheduled_for, "started") for w in found.work),
            *((s.scheduled_for, s.verdict) for s in found.skipped),
        ]:
            assert at is not None
            assert at not in told, f"two verdicts on {at}: {told[at]} and {verdict}"
            told[at] = verdict
        live = live or bool(found.work)
        moved = found.advance
        if found.completed or min(filter(None, (moved.next_run_at, moved.look_at))) > NOW:
            return told
        task = task._replace(
            next_run_at=moved.next_run_at,
            decided_until=moved.decided_until,
            fired=task.fired + moved.fired,
            snoozed_for=task.snoozed_for if moved.snoozed else None,
            snoozed_to=task.snoozed_to if moved.snoozed else None,
        )


@settings(max_examples=150, deadline=None)
@given(tasks(), absences(), st.integers(1, 7))
def test_the_size_of_a_chunk_decides_nothing(task: Timed, gone, chunk: int):
    at_once = decided(task, *gone, chunk=planning.CHUNK)
    in_chunks = decided(task, *gone, chunk=chunk)

    over = max((at for at, v in in_chunks.items() if v == "started"), default=NOW)
    if task.max_runs is not None:  # what follows the last run is not asked for
        at_once = {at: v for at, v in at_once.items() if at <= over}
        in_chunks = {at: v for at, v in in_chunks.items() if at <= over}
    assert in_chunks == at_once
