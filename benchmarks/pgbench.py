"""The worker's own lease and settle statements, driven by pgbench: the limit without Python.

Each round is what a worker does for a batch: one transaction leases it, the next settles it, with
the same prepared statements, the same session settings and parameters of the same size: a step
record, a run record and four events for each run.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from ordinaut.devserver.binaries import find_install
from ordinaut.model import NOBODY, Lease, StepRecord, uuid7
from ordinaut.store.queue import SQL
from ordinaut.store.results import STEP_COLUMNS, array, encode, facts, step_rows
from ordinaut.workers.line import BY_ID

BATCHES = (100, 500)
CLIENTS = (1, 2, 4)
SHARE = 0.9  # of what is queued: the last batches would not be full

# Without a client that takes rows apart, the answer of the lease is what the settlement needs.
HEADS = "SELECT array_agg(leased.id) AS ids, array_agg(leased.lease_token) AS tokens"


def script() -> str:
    """Return the rounds of one client: lease a batch, settle what was leased."""
    lease = _bound("lease").replace("SELECT other.*, leased.*", HEADS)
    assert HEADS in lease
    settle = _bound("settle").replace(":step_runs", ":ids")  # one step for each run
    return f"{lease.rstrip(';')}\n\\gset\n{settle}\n"


def _bound(name: str) -> str:
    """Return a statement with pgbench's parameters in the places of ours."""
    return re.sub(r"%\((\w+)\)s", r":\1", SQL[name]).replace(":now", "NULL::timestamptz")


def parameters(batch: int) -> Iterator[tuple[str, str]]:
    """Yield all that the worker sends along, but for the ids and tokens of the round."""
    now = datetime.now(UTC)
    work = uuid7()
    lease: Any = Lease(work, 1, work, 1, 1, now, None, "run_now", None, False, 0)
    later = now + timedelta(milliseconds=1)
    step = StepRecord("step_1", "succeeded", 1, now, later, "core.transform", None, 1)
    yield "worker_id", str(work)
    yield "turn", str(NOBODY)
    yield "limit", str(batch)
    yield "turn", str(NOBODY)
    yield "lease_for", "30 s"
    values = {
        "statuses": "succeeded",
        "started_ats": now.timestamp(),
        "finished_ats": later.timestamp(),
        "outputs": None,
        "errors": None,
        "step_fresh": True,
        **dict(zip(STEP_COLUMNS, step_rows([step])[0], strict=True)),
    }
    for name, value in values.items():
        yield name, array([value] * batch)
    yield "earlier", encode([facts(lease, [step], announce=True)] * batch)


def find() -> Path | None:
    """Return pgbench if the wheel of PostgreSQL has it."""
    path = find_install(16) / "bin" / "pgbench"
    return path if path.exists() else None


def run(url: str, *, clients: int, batch: int, count: int, folder: Path) -> float:
    """Return runs per second by ``clients`` connections, of most of ``count`` that are queued."""
    file = folder / "lease_and_settle.sql"
    file.write_text(script())
    program = find()
    assert program is not None
    rounds = int(count * SHARE) // batch // clients
    given = [part for name, value in parameters(batch) for part in ("-D", f"{name}={value}")]
    options = ["-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2))]
    done = subprocess.run(
        [program, *options, "-t", str(rounds), *given, "-f", file, url],
        env={**os.environ, "PGOPTIONS": BY_ID},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM task_run").fetchone()
    assert row == (rounds * clients * batch,), f"{row} runs ended: {done.stderr}"
    return float(found[1]) * batch
