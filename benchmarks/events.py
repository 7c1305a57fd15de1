"""From ``POST /events`` to the start of the run, on an idle system.

    ./ordinaut bench events [--events 500] [--rate 10] [--json FILE]

The whole product runs as ``ordinaut dev`` starts it: API, scheduler, worker, PostgreSQL with
fsync on, Valkey. One task of kind ``event`` listens. Events are published one by one, at random
distances, so that none meets the same moment of a loop. What counts is the time from before the
request is sent until the run is leased, and where it went::

    publish   sent → the transaction of the event begins
    trigger   → the transaction that starts the task begins
    start     → the worker leases the run
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from ordinaut.devserver.ports import free_port

READY = 120.0  # seconds until the product has started
WARM = 20  # events that do not count
TASK = {
    "title": "listens",
    "schedule_kind": "event",
    "schedule_expr": "bench.said",
    "payload": {"pipeline": [{"uses": "core.transform", "with": {"value": "${event.payload}"}}]},
}
STAGES = ("publish", "trigger", "start", "total")


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return what a product says that has started."""
    deadline = time.monotonic() + READY
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("ordinaut dev does not start")
        time.sleep(0.1)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def publish(told: dict[str, Any], *, count: int, rate: float) -> list[datetime]:
    """Publish events and return when each was sent."""
    sent = []
    headers = {"Authorization": f"Bearer {told['api_key']}"}
    with httpx2.Client(base_url=told["url"], headers=headers) as client:
        client.post("/tasks", json=TASK).raise_for_status()
        for number in range(count):
            time.sleep(random.uniform(0.5, 1.5) / rate)
            sent.append(datetime.now(UTC))
            body = {"topic": "bench.said", "payload": number}
            client.post("/events", json=body).raise_for_status()
    return sent


def seen(url: str, count: int) -> list[tuple[datetime, datetime, datetime]]:
    """Return when each event happened, started the task, and was leased."""
    query = (
        "SELECT (payload #>> '{event,at}')::timestamptz, run_at, started_at"
        "  FROM task_run WHERE trigger = 'event' ORDER BY (payload #>> '{event,payload}')::int"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(100):
            found = connection.execute(query).fetchall()
            if len(found) == count:
                return found
            time.sleep(0.1)
    sys.exit(f"{len(found)} of {count} events started their task")


def measure(told: dict[str, Any], *, count: int, rate: float) -> dict[str, dict[str, float]]:
    sent = publish(told, count=count + WARM, rate=rate)
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    for began, (at, run_at, started_at) in zip(
        sent[WARM:], seen(told["database_url"], count + WARM)[WARM:], strict=True
    ):
        points = [began, at, run_at, started_at]
        passed = [1000 * (b - a).total_seconds() for a, b in pairwise(points)]
        for name, took in zip(STAGES, [*passed, sum(passed)], strict=True):
            stages[name].append(took)
    return {name: shape(times) for name, times in stages.items()}


def shape(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "max": round(max(times), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--rate", type=float, default=10.0, help="events a second")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ordinaut", "dev", "--data-dir", folder, "--no-samples"]
        command += ["--port", str(free_port())]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            told = wait_for(Path(folder) / "dev.json", process)
            found = measure(told, count=options.events, rate=options.rate)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    print(f"{'ms':8} {'p50':>8} {'p99':>8} {'max':>8}")
    for name, row in found.items():
        print(f"{name:8} {row['p50']:8} {row['p99']:8} {row['max']:8}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
