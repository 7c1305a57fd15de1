"""A year of many tasks through the real tick: each occurrence has exactly one verdict.

What is expected is computed apart from the product: python-dateutil expands rules on the wall
clock, and the functions below know clock changes, absences and overlaps in the plainest way,
over whole lists and without any state.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from dateutil.rrule import rrulestr
from psycopg.types.json import Jsonb

from ordinaut.engine.calendar import parse_calendar
from ordinaut.engine.schedule import compile_schedule
from ordinaut.model import uuid7
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.tick import tick
from ordinaut.store import calendars, pulse, schedules
from ordinaut.store.database import Database
from ticking import AGENT, add_task, rows

TASKS = 1_000
BORN = datetime(2025, 11, 17, 10, 20, tzinfo=UTC)  # a Monday
END = BORN + timedelta(days=365)
ZONES = ("UTC", "Europe/Chisinau", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
FORMS = json.loads((Path(__file__).parents[1] / "data/year_of_schedules.json").read_text())
CLOSED = {"dates": ["2025-12-25", "2026-01-01", "2026-03-29"], "weekdays": ["SA"]}
MINUTE = timedelta(minutes=1)


@dataclass
class Case:
    """One task: its columns, its pauses with their policies, and what the year made of it."""

    form: dict[str, Any]
    columns: dict[str, Any]
    pauses: list[tuple[datetime, datetime, str | None]]
    id: UUID = field(default_factory=uuid7)
    told: dict[datetime, str] = field(default_factory=dict)


def cases(chance: random.Random) -> Iterator[Case]:
    for number in range(TASKS):
        form = FORMS[number % len(FORMS)]
        columns: dict[str, Any] = {
            "timezone": chance.choice(ZONES),
            "catchup": chance.choice(["last", "all", "none"]),
            "catchup_window_seconds": chance.choice([3_600, 86_400, 7 * 86_400]),
            "overlap": chance.choice(["allow", "allow", "skip"]),
        }
        if form["kind"] == "interval":
            columns["starts_at"] = BORN + MINUTE * chance.randrange(1, 10_000)
        else:
            columns["dst_gap"] = chance.choice(["shift", "skip"])
            columns["dst_fold"] = chance.choice(["first", "last", "both"])
        if chance.random() < 0.2:
            columns["exclude"] = ["closed"]
        if chance.random() < 0.1:
            columns["max_runs"] = chance.randrange(1, 40)
        if chance.random() < 0.1:
            columns["ends_at"] = BORN + MINUTE * chance.randrange(100_000, 500_000)
        yield Case(form, columns, list(_pauses(chance)))


def _pauses(chance: random.Random) -> Iterator[tuple[datetime, datetime, str | None]]:
    at = BORN
    for _ in range(chance.choice([0, 0, 1, 2])):
        at += MINUTE * chance.randrange(10_000, 150_000)
        end = at + MINUTE * chance.randrange(60, 20_000)
        yield at, end, chance.choice([None, "last", "all", "none"])
        at = end


def walls_and_instants(case: Case) -> Iterator[tuple[datetime, str]]:
    """Yield every occurrence of the year with "" or the verdict that takes it away."""
    form, columns = case.form, case.columns
    if form["kind"] == "interval":
        at = columns["starts_at"]
        while at <= END:
            yield at, ""
            at += timedelta(seconds=form["seconds"])
        return
    zone = ZoneInfo(columns["timezone"])
    start = BORN.astimezone(zone).replace(tzinfo=None)
    start = start.replace(hour=0, minute=0)  # a rule without a start counts from its first day
    for wall in rrulestr(form["rule"], dtstart=start).xafter(start - MINUTE):
        if wall > END.astimezone(zone).replace(tzinfo=None) + timedelta(days=1):
            return
        yield from _instants(wall, zone, kind=form["kind"], columns=columns)


def _instants(
    wall: datetime, zone: ZoneInfo, *, kind: str, columns: dict[str, Any]
) -> Iterator[tuple[datetime, str]]:
    early, late = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if early == late:
        yield early, ""
    elif early > late:  # the clock jumps over it; fold=0 counts on from before the jump
        if columns["dst_gap"] == "skip":
            yield early, "skipped_dst"
        else:
            yield (_jump(late, early, zone) if kind == "cron" else early), ""
    else:  # the clock shows it twice
        if columns["dst_fold"] in ("first", "both"):
            yield early, ""
        if columns["dst_fold"] in ("last", "both"):
            yield late, ""


def _jump(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant between two at which the zone's offset changes, to the minute."""
    minutes = [before + MINUTE * n for n in range(int((after - before) / MINUTE) + 2)]
    offsets = [minute.astimezone(zone).utcoffset() for minute in minutes]
    return next(m for m, a, b in zip(minutes[1:], offsets, offsets[1:], strict=False) if a != b)


def expected(
    case: Case, ticks: list[datetime], downtimes: list[tuple[datetime, datetime]]
) -> dict[datetime, str]:
    """Return the verdict on each occurrence up to the end of the year."""
    zone = ZoneInfo(case.columns["timezone"])
    plain: dict[datetime, str] = {}
    for at, taken in sorted(walls_and_instants(case)):
        if BORN < at <= min(case.columns.get("ends_at", END), ticks[-1]):
            closed = "exclude" in case.columns and not taken and _closed(at.astimezone(zone))
            plain[at] = taken or ("skipped_calendar" if closed else "")
    candidates = [_Candidate(at, case, ticks, downtimes) for at, t in plain.items() if not t]
    if not candidates and "ends_at" in case.columns:
        return {}  # it was stored as a task that never fires
    told: dict[datetime, str] = {}
    left = case.columns.get("max_runs", len(candidates) + 1)
    over = ticks[-1]
    for decided, together in groupby(candidates, key=lambda c: c.decided):
        group = list(together)
        live = False
        for index, candidate in enumerate(group if left else []):
            verdict = candidate.verdict(group[index + 1 :])
            if verdict == "started" and live and case.columns["overlap"] == "skip":
                verdict = "skipped_overlap"
            told[candidate.at] = verdict
            live = live or verdict == "started"
            left -= verdict == "started"
            if not left or ("ends_at" in case.columns and candidate is candidates[-1]):
                over = min(over, decided)  # the task is completed: what follows is not asked for
            if not left:
                break
    return {at: verdict for at, verdict in plain.items() if verdict and at <= over} | told


class _Candidate:
    def __init__(
        self,
        at: datetime,
        case: Case,
        ticks: list[datetime],
        downtimes: list[tuple[datetime, datetime]],
    ) -> None:
        self.at = at
        known = at
        self.policy: str | None = None
        self.paused = False
        for began, ended in downtimes:
            if began <= at < ended:
                known, self.policy = ended, case.columns["catchup"]
        for began, ended, policy in case.pauses:
            if began <= at < ended:
                known, self.paused = max(known, ended), True
                self.policy = policy or case.columns["catchup"]
            elif at < began <= self._tick(ticks, known) < ended:
                known = ended  # it was due before the pause, but nobody ticked in between
        self.decided = self._tick(ticks, known)
        self.late = self.decided - at > timedelta(seconds=case.columns["catchup_window_seconds"])

    @staticmethod
    def _tick(ticks: list[datetime], at: datetime) -> datetime:
        place = bisect_left(ticks, at)
        return ticks[place] if place < len(ticks) else END + timedelta(days=999)

    def verdict(self, later: list[_Candidate]) -> str:
        if self.policy is None:
            return "started"
        instead = next((c for c in later if c.policy != "none"), None)
        if self.policy == "all" and not self.late:
            return "started"
        if self.policy == "last" and not self.late:
            if instead is None or instead.policy is None:
                return "started"
            return "skipped_paused" if self.paused else "coalesced"
        return "skipped_paused" if self.paused else "missed"


def _closed(local: datetime) -> bool:
    return local.weekday() == 5 or local.date().isoformat() in CLOSED["dates"]


async def test_every_occurrence_of_a_year_has_exactly_one_verdict(db: Database):
    chance = random.Random(20_251_117)
    told = list(cases(chance))
    downtimes = [
        (BORN + timedelta(days=day), BORN + timedelta(days=day) + timedelta(hours=hours))
        for day, hours in ((20, 7), (100, 50), (131.6, 3), (200, 200), (320.2, 26))
    ]
    ticks = tick_times(chance, downtimes)
    await store(db, told)

    await live_through(db, told, ticks, downtimes)

    by_id = {case.id: case for case in told}
    for task, at, verdict in await rows(
        db, "SELECT task_id, scheduled_for, verdict FROM occurrence"
    ):
        assert at not in by_id[task].told, f"{by_id[task]} has two verdicts on {at}"
        by_id[task].told[at.astimezone(UTC)] = verdict
    for case in told:
        assert case.told == expected(case, ticks, downtimes), (
            f"{case.form} {case.columns} {case.pauses}"
        )
    assert sum(len(case.told) for case in told) > 100_000


def tick_times(chance: random.Random, downtimes: list[tuple[datetime, datetime]]) -> list[datetime]:
    """Return when the schedulers tick: some times a week, never in a downtime, at its end."""
    at, found = BORN, [end for _, end in downtimes]
    while (at := at + MINUTE * chance.randrange(600, 5_000)) < END:
        if not any(began <= at <= ended for began, ended in downtimes):
            found.append(at)
    return sorted(found)


async def store(db: Database, told: list[Case]) -> None:
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO agent (id, name) VALUES (%s, 'tester')", (AGENT,))
        await tx.execute(
            "INSERT INTO calendar (id, name, definition, created_by) VALUES (%s, 'closed', %s, %s)",
            (uuid7(), Jsonb(CLOSED), AGENT),
        )
    known = {"closed": parse_calendar("closed", CLOSED)}
    for case in told:
        case.id = await add_task(
            db,
            case.form["kind"],
            case.form["expr"],
            born=BORN,
            calendars=known,
            **case.columns,
        )


async def live_through(
    db: Database,
    told: list[Case],
    ticks: list[datetime],
    downtimes: list[tuple[datetime, datetime]],
) -> None:
    began = {ended: began for began, ended in downtimes}
    changes = sorted(_changes(told, ticks[-1]), key=lambda change: change[0])
    memory = Calendars()
    by_id = {case.id: case for case in told}
    for now in ticks:
        while changes and changes[0][0] <= now:
            await apply(db, *changes.pop(0))
        async with db.connection() as tx:
            # The schedulers' hearts beat all the time, except in a downtime.
            before = began.get(now, now - timedelta(seconds=1))
            await tx.execute("UPDATE pulse SET at = %s", (before,))
            await pulse.beat(tx, now=now)
        while (await tick(db, memory, now=now)).more:
            pass
        gone = await rows(db, "DELETE FROM due_work RETURNING task_id, scheduled_for")
        for task, at in gone:
            assert at not in by_id[task].told, f"{by_id[task]} ran twice for {at}"
            by_id[task].told[at.astimezone(UTC)] = "started"


def _changes(told: list[Case], last: datetime) -> Iterator[tuple[datetime, Case, bool, str | None]]:
    for case in told:
        case.pauses = [pause for pause in case.pauses if pause[1] <= last]
        for begin, end, catchup in case.pauses:
            yield begin, case, True, None
            yield end, case, False, catchup


async def apply(db: Database, at: datetime, case: Case, pausing: bool, catchup: Any) -> None:
    async with db.transaction() as tx:
        found = await tx.execute("SELECT status FROM task WHERE id = %s", (case.id,))
        if await found.fetchone() == ("completed",):
            return
        status = "paused" if pausing else "active"
        await tx.execute("UPDATE task SET status = %s WHERE id = %s", (status, case.id))
        if pausing:
            await schedules.pause(tx, [case.id], now=at)
            return
        [timed] = await schedules.load(tx, [case.id])
        known = await calendars.named(tx, timed.schedule.exclude)
        following = compile_schedule(timed.schedule, calendars=known).next(timed.decided_until)
        nexts = {case.id: following and following.at}
        await schedules.resume(tx, nexts, catchup=catchup, now=at)
