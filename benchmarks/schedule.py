"""Microseconds per next occurrence, by class of rule, beside python-dateutil and cronsim.

Run it with ``python benchmarks/schedule.py [--json FILE]``. "first" is the time to understand a
schedule that was never seen before and to give its first answer; "next" is the median of one
answer of a schedule that is known. The oracles are asked the way their users ask: ``after(now)``
of an rrule with the same start, one step of a CronSim. An oracle that needs more than a second
is cut off.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

from cronsim import CronSim
from dateutil.rrule import rrulestr

from ordinaut.engine.schedule import compile_schedule
from ordinaut.errors import InvalidSchedule
from ordinaut.model import Schedule, ScheduleKind

NOW = datetime(2027, 3, 13, 11, 22, 33, tzinfo=UTC)
ZONE = "America/New_York"
QUESTIONS = 400
ORACLE_LIMIT_SECONDS = 1.0

RULES = {
    "daily": "DTSTART:20260101T093000\nRRULE:FREQ=DAILY",
    "daily, started 1970": "DTSTART:19700101T093000\nRRULE:FREQ=DAILY",
    "weekly, two days": "DTSTART:20200106T090000\nRRULE:FREQ=WEEKLY;BYDAY=MO,FR",
    "every 2 weeks": "DTSTART:20200106T090000\nRRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR",
    "last workday of the month": (
        "DTSTART:20200101T170000\nRRULE:FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1"
    ),
    "29 February": "DTSTART:20200229T090000\nRRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29",
    "every 20 minutes by day": (
        "DTSTART:20200101T090000\nRRULE:FREQ=DAILY;BYHOUR=9,10,11,12,13,14,15,16;BYMINUTE=0,20,40"
    ),
    "hourly, 10 years old": "DTSTART:20170101T000000\nRRULE:FREQ=HOURLY",
    "every 5 minutes, 10 years old": "DTSTART:20170101T000000\nRRULE:FREQ=MINUTELY;INTERVAL=5",
    "every second from 1970": "DTSTART:19700101T000000\nRRULE:FREQ=SECONDLY",
    "hourly in office hours": (
        "DTSTART:20200101T000000\nRRULE:FREQ=HOURLY;BYDAY=MO,TU,WE,TH,FR;BYHOUR=9,10,11,12,13"
    ),
    "count 100,000": "DTSTART:20200101T090000\nRRULE:FREQ=DAILY;COUNT=100000",
    "30 February": "DTSTART:20200101T090000\nRRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
    "two rules, RDATE, EXDATE": (
        "DTSTART:20200101T090000\nRRULE:FREQ=WEEKLY;BYDAY=MO\nRRULE:FREQ=MONTHLY;BYMONTHDAY=1\n"
        "RDATE:20270401T120000\nEXDATE:20270315T090000"
    ),
}
CRONS = {
    "cron, fixed": "30 9 * * *",
    "cron, workdays": "0 9 * * 1-5",
    "cron, every 5 minutes": "*/5 * * * *",
    "cron, 29 February": "0 0 29 2 *",
    "cron, last Friday": "0 9 * * 5L",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; times in microseconds, None where there is no answer in time."""

    name: str
    first: float
    next: float | None
    oracle: float | None


class _OutOfTime(Exception):
    """The oracle took too long."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def median_of(ask: Callable[[datetime], object]) -> float:
    taken = []
    for step in range(QUESTIONS):
        moment = NOW + timedelta(minutes=37 * step)
        started = time.perf_counter()
        ask(moment)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e6


def ours(kind: ScheduleKind, expr: str) -> tuple[float, float | None]:
    given = Schedule(kind, expr, ZONE, anchor=NOW)
    started = time.perf_counter()
    try:
        compiled = compile_schedule(given)
    except InvalidSchedule:
        return (time.perf_counter() - started) * 1e6, None
    compiled.next(NOW)
    first = (time.perf_counter() - started) * 1e6
    return first, median_of(compiled.next)


def dateutil(expr: str) -> float | None:
    local = ZoneInfo(ZONE)
    rule = rrulestr(expr)
    return oracle(lambda: rule.after(NOW.astimezone(local).replace(tzinfo=None)))


def cronsim(expr: str) -> float | None:
    local = NOW.astimezone(ZoneInfo(ZONE))
    return oracle(lambda: next(CronSim(expr, local)))


def oracle(ask: Callable[[], object]) -> float | None:
    taken: list[float] = []
    try:
        with limited(ORACLE_LIMIT_SECONDS):
            for _ in count():
                started = time.perf_counter()
                ask()
                taken.append(time.perf_counter() - started)
                if len(taken) >= QUESTIONS:
                    break
    except _OutOfTime:
        pass
    return statistics.median(taken) * 1e6 if taken else None


def measure() -> list[Row]:
    rows = [Row(name, *ours("rrule", expr), dateutil(expr)) for name, expr in RULES.items()]
    rows += [Row(name, *ours("cron", expr), cronsim(expr)) for name, expr in CRONS.items()]
    for name, expr in {"interval": "PT90S"}.items():
        rows.append(Row(name, *ours("interval", expr), None))
    return rows


def shown(value: float | None, missing: str) -> str:
    return f"{value:14,.1f}" if value is not None else f"{missing:>14}"


def main() -> None:
    """Print the table; write it as JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args()
    rows = measure()
    print(f"{'µs':32}{'first':>14}{'next':>14}{'oracle':>14}")
    for row in rows:
        late = "-" if row.name == "interval" else "> 1 s"
        print(
            f"{row.name:32}{shown(row.first, '')}{shown(row.next, 'refused')}"
            f"{shown(row.oracle, late)}"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
