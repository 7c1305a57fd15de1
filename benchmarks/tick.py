"""How fast time becomes work: a burst of due schedules, and a million active ones.

    .venv/bin/python -m benchmarks.tick [--active 1000000] [--seconds 20] [--json FILE]

burst   10,000 schedules due in one second, by kind; the time until the last is enqueued.
steady  a million active schedules of which 1,000 are due each second, all different in phase;
        the scheduler's own loop (metronome and tick) runs beside the clock. Lateness is from
        the instant of the occurrence until all ticks of its round have committed. Nobody executes
        the work, it piles up. The first second is not counted, because nothing is prepared yet.

One process, PostgreSQL on the same machine with fsync on.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
import uvloop

from ordinaut.clock import SystemClock
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.garbage import spare_what_lives
from ordinaut.model import NOBODY, uuid7
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.hands import ticks
from ordinaut.scheduler.metronome import Metronome
from ordinaut.store import migrate, schedules
from ordinaut.store.database import SMALL, Database

BURST = 10_000
DUE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)  # a Monday
AGENT = UUID(int=1)
ROUNDS = 3
HOUR = timedelta(hours=1)
WARM_UP = timedelta(seconds=1)  # the first second is not counted: nothing is prepared yet

Row: TypeAlias = tuple[UUID, str, str, datetime, datetime]  # id, kind, expression, anchor, next


def burst_rows(kind: str, chance: random.Random) -> Iterable[Row]:
    """Yield schedules that are all due at one instant."""
    for number in range(BURST):
        born = DUE - timedelta(days=chance.randrange(1, 900), seconds=chance.randrange(3600))
        picked = kind if kind != "mixed" else ("cron", "interval", "rrule")[number % 3]
        match picked:
            case "same cron":
                yield uuid7(), "cron", "0 9 * * *", born, DUE
            case "cron":
                days = chance.choice(["1", "1-5", "*", "1,3,5", "0-4"])
                yield uuid7(), "cron", f"0 9 * * {days}", born, DUE
            case "interval":
                every = chance.choice([1, 2, 3, 6])
                yield uuid7(), "interval", f"PT{every}H", DUE - 6 * HOUR * number, DUE
            case _:
                rule = f"FREQ=WEEKLY;INTERVAL=1;BYDAY=MO,{chance.choice(['TU', 'WE', 'TH'])}"
                yield uuid7(), "rrule", f"{rule};BYHOUR=9;BYMINUTE=0;BYSECOND=0", born, DUE


def steady_rows(active: int, start: datetime, chance: random.Random) -> Iterable[Row]:
    """Yield schedules of which a thousandth is due each second, spread evenly."""
    per_task = timedelta(seconds=active / 1_000)
    for number in range(active):
        due = start + per_task * chance.random()
        due = due.replace(microsecond=due.microsecond // 1_000 * 1_000)
        if number % 5 < 3:
            every = f"PT{active // 1_000}S"
            yield uuid7(), "interval", every, due - per_task * 1_000, due
        else:
            due = due.replace(microsecond=0)
            rule = f"FREQ=SECONDLY;INTERVAL={active // 1_000}"
            yield uuid7(), "rrule", rule, due - per_task * 1_000, due


async def fill(db: Database, rows: Iterable[Row]) -> None:
    """Store schedules in place of those that are there."""
    async with db.transaction() as tx:
        await tx.execute("TRUNCATE task, schedule, due_work, event CASCADE")
        await tx.execute(
            "INSERT INTO agent (id, name) VALUES (%s, 'b') ON CONFLICT DO NOTHING", (AGENT,)
        )
        await tx.execute(
            "CREATE TEMP TABLE given (id uuid, kind text, expr text, anchor timestamptz,"
            " due timestamptz) ON COMMIT DROP"
        )
        async with tx.cursor().copy("COPY given FROM STDIN") as copy:
            for row in rows:
                await copy.write_row(row)
        await tx.execute(
            "INSERT INTO task (id, title, schedule_kind, schedule_expr, timezone, anchor,"
            " created_by) SELECT id, 'benchmark', kind, expr, 'UTC', anchor, %s FROM given",
            (AGENT,),
        )
        await tx.execute(
            "INSERT INTO schedule (task_id, next_run_at, decided_until)"
            " SELECT id, due, due - interval '1 second' FROM given"
        )
    async with db.connection() as connection:
        await connection.execute("VACUUM ANALYZE")


async def burst(db: Database, kind: str) -> float:
    """Return the best number of seconds in which all of a burst was enqueued."""
    times = []
    for round_ in range(ROUNDS):
        await fill(db, burst_rows(kind, random.Random(round_)))
        clock, calendars, enqueued = SystemClock(), Calendars(), 0
        begun = clock.monotonic()
        while True:
            result = await ticks(db, calendars, now=DUE)
            enqueued += result.enqueued
            if not result.more:
                break
        times.append(clock.monotonic() - begun)
        assert enqueued == BURST, f"{enqueued} of {BURST} were enqueued"
    return min(times)


async def steady(db: Database, *, active: int, seconds: float) -> dict[str, float]:
    """Return how late occurrences are when a million schedules are active."""
    clock = SystemClock()
    # Filling takes its time; the first occurrence comes after it.
    start = clock.now() + timedelta(seconds=30 + active / 15_000)
    await fill(db, steady_rows(active, start, random.Random(1)))
    assert clock.now() < start, "the machine is too slow to fill the table in time"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lateness: list[float] = []
    last = NOBODY
    spare_what_lives()  # as the scheduler does
    end = start + timedelta(seconds=seconds)
    async with Metronome(clock) as metronome:
        calendars, used = Calendars(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
        while clock.now() < end:
            await metronome.wait()
            result = await ticks(db, calendars)
            now = clock.now()
            async with db.connection() as connection:
                made = await connection.execute(
                    "SELECT id, scheduled_for FROM due_work WHERE id > %s ORDER BY id", (last,)
                )
                found = await made.fetchall()
                last = found[-1][0] if found else last
                times = [at for _, at in found if at >= start + WARM_UP]
                lateness += [(now - at).total_seconds() for at in times]
                moment, due = await schedules.next_due(connection)
            if result.more:
                metronome.nudge()
            elif due is not None:
                metronome.strike_in(due - moment)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cuts = statistics.quantiles(lateness, n=100)
    return {
        "enqueued": len(lateness),
        "per_second": round(len(lateness) / (seconds - WARM_UP.total_seconds())),
        "p50_ms": round(cuts[49] * 1000, 1),
        "p99_ms": round(cuts[98] * 1000, 1),
        "max_ms": round(max(lateness) * 1000, 1),
        "python_cpu_percent": round((usage.ru_utime - used) / seconds * 100),
        "rss_mb": round(max(usage.ru_maxrss / 1024, before)),
    }


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"burst": {}}
    async with Database(url, size=2, options=SMALL) as db:
        for kind in ("same cron", "cron", "interval", "rrule", "mixed"):
            seconds = await burst(db, kind)
            found["burst"][kind] = round(seconds, 3)
            print(f"burst   {kind:10} {BURST:,} in {seconds:.3f} s = {BURST / seconds:,.0f}/s")
        found["steady"] = await steady(db, active=options.active, seconds=options.seconds)
        print(f"steady  {options.active:,} active: {found['steady']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--active", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "data") as server:
        url = server.url_of("postgres")
        migrate.upgrade(url)
        with psycopg.connect(url, autocommit=True) as connection:
            print(connection.execute("SELECT version()").fetchone())
        found = uvloop.run(measure(url, options))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
