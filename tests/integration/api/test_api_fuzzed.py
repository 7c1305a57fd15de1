"""The whole description of the API is put to the test by schemathesis."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

from calling import Server, make_agent, rows, served, settings_of
from ordinaut.store.database import Database

SECONDS = 45
ENDLESS = r"^/(events/stream|runs/\{run_id\}/logs)$"  # streams that schemathesis would wait for
CONFIG = Path(__file__).parent.parent.parent / "data" / "schemathesis.toml"


async def fuzzed(server: Server, key: str, place: Path, *options: str, judge: str = "") -> str:
    """Run schemathesis, with checks of our own, and return what it says; it must find nothing."""
    shutil.copy(CONFIG, place / "schemathesis.toml")
    (place / "judge.py").write_text(judge)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{server.url}/openapi.json",
        "-H",
        f"Authorization: Bearer {key}",
        "--exclude-path-regex",
        ENDLESS,
        "--no-color",
        "--request-timeout=30",
        "--seed=1",
        *options,
        cwd=place,
        env={"SCHEMATHESIS_HOOKS": "judge", "PYTHONPATH": str(place), "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    text = said.decode()
    assert process.returncode == 0, text[-20_000:]
    return text


async def test_what_the_description_allows_is_answered_as_it_says(
    db: Database,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    settings = settings_of(database_url, redis_url).model_copy(
        update={"rate_limit": "", "sign_in_limit": ""}
    )
    _, key = await make_agent(db, settings, "admin")
    async with served(settings, key) as server:
        said = await fuzzed(server, key, tmp_path, "--checks=all", f"--max-time={SECONDS}")

    [selected, tested, generated] = (
        int(found)
        for word in (r"Selected: (\d+)/", r"Tested: (\d+)", r"(\d+) generated")
        for found in re.findall(word, said)
    )
    assert tested == selected > 70, said[-2_000:]
    assert generated > 1_000, said[-2_000:]


async def test_an_agent_without_scopes_gets_and_changes_nothing(
    db: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings = settings_of(database_url, redis_url).model_copy(
        update={"rate_limit": "", "sign_in_limit": ""}
    )
    _, key = await make_agent(db, settings)
    async with served(settings, key) as server:
        await fuzzed(
            server,
            key,
            tmp_path,
            "--checks=gets_nothing,not_a_server_error",
            "--phases=coverage,fuzzing",
            f"--max-time={SECONDS // 3}",
            judge=JUDGE,
        )

    assert await rows(db, "SELECT count(*) FROM task") == [(0,)]
    assert await rows(db, "SELECT count(*) FROM agent") == [(1,)]
    assert await rows(db, "SELECT count(*) FROM secret") == [(0,)]
    actions = {action for (action,) in await rows(db, "SELECT action FROM audit_log")}
    assert actions <= {"auth.revoke", "auth.token", "auth.sign_in_failed"}


JUDGE = """
import schemathesis

OPEN = {"/health", "/health/live", "/health/ready", "/auth/me", "/auth/revoke"}


@schemathesis.check
def gets_nothing(ctx, response, case):
    assert response.status_code >= 400 or case.path in OPEN, response.text
"""
