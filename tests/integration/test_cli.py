"""The command line, as a user sees it."""

import os
import re
import subprocess
import sys
from importlib import metadata

import psycopg
import pytest
from typer.testing import CliRunner, Result

from ordinaut.cli.main import app
from ordinaut.store import migrate


def invoke(*args: str, **env: str) -> Result:
    return CliRunner().invoke(app, args, env=env)


def ordinaut(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ordinaut", *args],
        env={"PATH": os.environ["PATH"]} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def verdicts(result: Result) -> dict[str, str]:
    """What the doctor says of each subject."""
    return {m[2].strip(): m[1] for m in re.finditer(r"^(ok|FAIL) +(.{10})  ", result.output, re.M)}


def test_the_version_is_that_of_the_package():
    assert ordinaut("--version").stdout == f"ordinaut {metadata.version('ordinaut')}\n"


def test_every_command_is_listed_with_what_it_does():
    listed = invoke("--help").output
    for command in ("dev", "api", "scheduler", "worker", "migrate", "doctor"):
        assert re.search(rf"{command} +[A-Z]", listed), command


@pytest.mark.parametrize("command", ["api", "scheduler", "worker"])
def test_a_server_without_settings_names_every_variable_that_is_missing(command):
    done = ordinaut(command)
    assert done.returncode == 1
    for variable in ("DATABASE_URL", "REDIS_URL", "ORDINAUT_SECRET"):
        assert variable in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_refused():
    assert invoke("sing").exit_code == 2


def test_migrate_brings_an_empty_database_to_this_version(empty_database_url):
    for _ in range(2):
        result = invoke("migrate", DATABASE_URL=empty_database_url)
        assert result.output == f"the schema is at {migrate.head()}\n"


def test_the_doctor_finds_nothing_wrong_with_living_processes(database_url, redis_url):
    with psycopg.connect(database_url, autocommit=True) as connection:
        for kind in ("scheduler", "worker"):
            connection.execute(
                "INSERT INTO worker (id, kind, host, pid, version)"
                " VALUES (gen_random_uuid(), %s, '', 1, '')",
                [kind],
            )
    result = invoke("doctor", DATABASE_URL=database_url, REDIS_URL=redis_url)
    assert result.exit_code == 0, result.output
    assert set(verdicts(result).values()) == {"ok"}
    assert len(verdicts(result)) == 8


def test_the_doctor_misses_processes_that_are_silent(database_url, redis_url):
    result = invoke("doctor", DATABASE_URL=database_url, REDIS_URL=redis_url)
    assert result.exit_code == 1
    assert verdicts(result)["worker"] == verdicts(result)["scheduler"] == "FAIL"
    assert "-> start `ordinaut worker`" in result.output


def test_the_doctor_sends_to_migrate(empty_database_url, redis_url):
    result = invoke("doctor", DATABASE_URL=empty_database_url, REDIS_URL=redis_url)
    assert verdicts(result)["schema"] == "FAIL"
    assert "-> run `ordinaut migrate`" in result.output


def test_the_doctor_names_servers_that_do_not_answer():
    result = invoke(
        "doctor",
        DATABASE_URL="postgresql://127.0.0.1:1/x?connect_timeout=1",
        REDIS_URL="redis://127.0.0.1:1/0",
    )
    assert result.exit_code == 1
    assert verdicts(result)["database"] == verdicts(result)["redis"] == "FAIL"


def test_the_doctor_says_which_variables_are_not_set(tmp_path):
    result = invoke("doctor", "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "DATABASE_URL is not set" in result.output
    assert "REDIS_URL is not set" in result.output
