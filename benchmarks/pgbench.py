"""The worker's own lease and settle statements, driven by pgbench: the limit without Python."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ordinaut.devserver.binaries import find_install
from ordinaut.store.queue import SQL

STEPS = '[["step_1",-1,"succeeded",1,"core.transform",1764000000.1,1764000000.2,1,null]]'
HOLDER = "('00000000-0000-0000-0000-' || lpad(:client_id::text, 12, '0'))::uuid"
HEADS = "SELECT array_agg(leased.id) AS ids, array_agg(leased.lease_token) AS tokens"


def script(batch: int) -> str:
    """Return a transaction script: lease a batch, settle what was leased."""

    def repeated(value: str) -> str:
        return f"array_fill({value}, ARRAY[{batch}])"

    values = {
        "worker_id": HOLDER,
        "now": "NULL::timestamptz",
        "lease_for": "interval '30 s'",
        "limit": str(batch),
        "ids": "':ids'",
        "tokens": "':tokens'",
        "announce": repeated("true"),
        "statuses": repeated("'succeeded'::text"),
        "started_ats": repeated("1764000000.1::float8"),
        "finished_ats": repeated("1764000000.2::float8"),
        "outputs": repeated("NULL::text"),
        "errors": repeated("NULL::text"),
        "steps": repeated(f"'{STEPS}'::text"),
    }

    def bound(name: str) -> str:
        text = re.sub(r"^--.*\n", "", SQL[name], flags=re.MULTILINE)
        return re.sub(r"%\((\w+)\)s", lambda found: values[found[1]], text)

    lease = bound("lease").replace("SELECT other.keyed, leased.*", HEADS).rstrip(";\n")
    return f"{lease}\n\\gset\n{bound('settle')}\n"


def find() -> Path | None:
    """Return pgbench if the wheel of PostgreSQL has it."""
    path = find_install(16) / "bin" / "pgbench"
    return path if path.exists() else None


def run(url: str, *, clients: int, batch: int, count: int, folder: Path) -> float:
    """Return runs per second of ``count`` runs by ``clients`` connections."""
    file = folder / "lease_and_settle.sql"
    file.write_text(script(batch))
    program = find()
    assert program is not None
    rounds = count // batch // clients
    done = subprocess.run(
        [program, "-n", "-c", str(clients), "-j", "1", "-t", str(rounds), "-f", file, url],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1]) * batch
