"""The embedded servers, with real processes and real signals."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time

import psutil
import psycopg
import pytest
import redis

from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.devserver.supervisor import watching
from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.errors import Conflict, Unavailable

OWNER = """
import sys, time
from pathlib import Path
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.devserver.valkey import EmbeddedValkey
place = Path(sys.argv[1])
with EmbeddedPostgres(place / "pg") as postgres, EmbeddedValkey(place / "valkey") as valkey:
    print(postgres.pid, valkey.pid, postgres.url, flush=True)
    time.sleep(60)
"""


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, f"{left} still run"
        time.sleep(0.02)


def test_committed_rows_survive_a_crash_and_the_address_stays(tmp_path):
    with EmbeddedPostgres(tmp_path / "pg") as server:
        url = server.url
        execute(url, "CREATE TABLE t AS SELECT 1 AS n")
        server.kill()
        assert server.pid is None
        with pytest.raises(psycopg.OperationalError):
            execute(url, "SELECT 1")
        server.start()
        assert server.url == url
        assert execute(url, "SELECT n FROM t") == [(1,)]
        server.restart()
        assert execute(url, "SELECT n FROM t") == [(1,)]


def test_a_wrong_password_is_refused(postgres_server):
    wrong = postgres_server.url.replace(postgres_server.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        execute(wrong, "SELECT 1")


def test_the_asked_major_is_what_runs_and_times_are_in_utc(postgres_server):
    major = int(os.environ.get("ORDINAUT_PG_MAJOR") or 16)
    version = execute(postgres_server.url, "SHOW server_version_num")[0][0]
    assert int(str(version)) // 10_000 == major
    assert execute(postgres_server.url, "SHOW timezone") == [("UTC",)]


def test_data_of_another_major_is_refused_by_name(tmp_path):
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "PG_VERSION").write_text("16\n")
    with pytest.raises(Conflict, match="holds data of PostgreSQL 16, not 18"):
        EmbeddedPostgres(tmp_path / "pg", major=18).start()


def test_a_major_that_does_not_exist_is_refused_by_name(tmp_path):
    with pytest.raises(Unavailable, match="no embedded PostgreSQL 15; there are 16 and 18"):
        EmbeddedPostgres(tmp_path / "pg", major=15).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_root_runs_postgres_as_somebody_else_in_a_closed_directory(tmp_path):
    tmp_path.chmod(0o700)
    with EmbeddedPostgres(tmp_path / "pg", fsync=False) as server:
        assert psutil.Process(server.pid).uids().real != 0
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert tmp_path.stat().st_uid == 0


def test_a_creation_that_was_interrupted_is_begun_anew(tmp_path):
    (tmp_path / "pg.new" / "base").mkdir(parents=True)
    with EmbeddedPostgres(tmp_path / "pg", fsync=False) as server:
        assert execute(server.url, "SELECT 1") == [(1,)]
    assert not (tmp_path / "pg.new").exists()


def test_a_pid_file_that_names_an_unrelated_process_does_not_prevent_a_start(tmp_path):
    server = EmbeddedPostgres(tmp_path / "pg", fsync=False)
    with server:
        pid_file = tmp_path / "pg" / "postmaster.pid"
        content = pid_file.read_text()
    # A process of the same user, or PostgreSQL would see through it by itself.
    owner = pid_file.parent.stat()
    as_owner = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["/bin/sleep", "60"], **as_owner) as unrelated:
        try:
            pid_file.write_text(f"{unrelated.pid}\n" + content.split("\n", 1)[1])
            os.chown(pid_file, owner.st_uid, owner.st_gid)
            with server:
                assert execute(server.url, "SELECT 1") == [(1,)]
            assert unrelated.poll() is None
        finally:
            unrelated.kill()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_a_server_that_an_earlier_owner_left_is_stopped_first(tmp_path, kind):
    with kind(tmp_path / "data", fsync=False) as left:
        pid = left.pid
        with kind(tmp_path / "data", fsync=False) as server:
            assert server.pid != pid
            assert not psutil.pid_exists(pid) or left.pid is None


@pytest.mark.chaos
def test_servers_end_with_their_killed_owner_and_start_again_with_their_data(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        postgres, valkey, url = owner.stdout.readline().split()
        execute(url, "CREATE TABLE t AS SELECT 1 AS n")
        owner.kill()
        wait_until_gone(int(postgres), int(valkey))
    with EmbeddedPostgres(tmp_path / "pg") as server:
        assert execute(server.url, "SELECT n FROM t") == [(1,)]


@pytest.mark.chaos
def test_servers_end_with_an_owner_that_was_terminated(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        postgres, valkey, _ = owner.stdout.readline().split()
        owner.send_signal(signal.SIGTERM)
        wait_until_gone(int(postgres), int(valkey))


def test_valkey_keeps_its_data_and_asks_for_the_password(tmp_path):
    server = EmbeddedValkey(tmp_path / "valkey")
    with server, redis.Redis.from_url(server.url) as client:
        client.set("n", 1)
        with (
            redis.Redis.from_url(server.url.replace(server.password, "wrong")) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
    with server, redis.Redis.from_url(server.url) as client:
        assert client.get("n") == b"1"


def test_the_password_is_not_in_the_list_of_processes(valkey_server, postgres_server):
    for server in (valkey_server, postgres_server):
        assert server.password not in " ".join(psutil.Process(server.pid).cmdline())


def test_a_server_that_can_not_start_says_why(tmp_path):
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "appendonlydir").write_text("in the way")
    with pytest.raises(Unavailable, match=r"valkey\.log"):
        EmbeddedValkey(tmp_path / "valkey").start()


async def test_a_watched_server_that_dies_is_started_again(tmp_path):
    said: list[str] = []
    changed = asyncio.Event()
    with EmbeddedValkey(tmp_path / "valkey") as server:
        async with watching(server, say=said.append, changed=changed.set):
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(changed.wait(), 20)
        assert server.pid not in (None, pid)
    assert said == ["valkey-server ended; it starts again"]
