"""The parts of ``ordinaut dev`` that need no server."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ordinaut.clock import SystemClock
from ordinaut.devserver import reaper, state
from ordinaut.devserver.binaries import Identity, reachable
from ordinaut.devserver.files import private_token, write_private
from ordinaut.devserver.ports import claim_port, reachable_host
from ordinaut.devserver.samples import definitions
from ordinaut.devserver.state import DevState, Pids
from ordinaut.devserver.supervisor import Supervised
from ordinaut.errors import Conflict, NotFound

STATE = DevState(
    url="http://127.0.0.1:8080",
    api_key="ord_x",
    database_url="postgresql://…",
    redis_url="redis://…",
    pids=Pids(dev=1, postgres=2, valkey=None, api=3, scheduler=4, workers=(5, 6)),
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_is_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_token_is_made_once(tmp_path):
    first = private_token(tmp_path / "secret")
    assert len(first.encode()) >= 32
    assert private_token(tmp_path / "secret") == first
    assert private_token(tmp_path / "other") != first


def test_dev_json_reads_as_it_was_written(tmp_path):
    STATE.write(tmp_path)
    assert state.read(tmp_path) == STATE
    assert mode(tmp_path / "dev.json") == 0o600
    assert json.loads((tmp_path / "dev.json").read_text())["pids"]["workers"] == [5, 6]


def test_without_a_running_dev_there_is_nothing_to_read(tmp_path):
    with pytest.raises(NotFound, match="no ordinaut dev is running"):
        state.read(tmp_path)


def test_a_second_dev_hears_who_holds_the_directory(tmp_path):
    with (
        state.hold(tmp_path),
        pytest.raises(Conflict, match=f"pid {os.getpid()}.*--data-dir"),
        state.hold(tmp_path),
    ):
        pass


def test_the_directory_is_free_again_after_its_holder(tmp_path):
    with state.hold(tmp_path):
        STATE.write(tmp_path)
    assert not (tmp_path / "dev.json").exists()
    with state.hold(tmp_path):
        pass


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Conflict, match=r"file.*--data-dir"), state.hold(tmp_path / "file"):
        pass


def test_a_directory_is_closed_to_others(tmp_path):
    with state.hold(tmp_path / "new"):
        assert mode(tmp_path / "new") == 0o700


def test_what_a_killed_dev_left_is_stopped(tmp_path):
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "ordinaut"])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pids = Pids(dev=1, postgres=None, valkey=None, api=left.pid, scheduler=None, workers=())
    try:
        DevState(**{**vars_of(STATE), "pids": pids}).write(tmp_path)
        with state.hold(tmp_path):
            left.wait(timeout=5)
        DevState(**{**vars_of(STATE), "pids": Pids(1, None, None, other.pid, None, ())}).write(
            tmp_path
        )
        with state.hold(tmp_path):
            assert other.poll() is None, "a process that is not ours was stopped"
    finally:
        left.kill()
        other.kill()
        left.wait()
        other.wait()


def vars_of(value: DevState) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pids": null}', '{"url": "x"}'])
def test_a_spoilt_dev_json_does_not_prevent_a_start(tmp_path, text):
    (tmp_path / "dev.json").write_text(text)
    with state.hold(tmp_path):
        assert not (tmp_path / "dev.json").exists()


def test_a_taken_port_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match=f"127.0.0.1 port {port}.*--port"):
            claim_port("127.0.0.1", port)
    assert claim_port("127.0.0.1", port) == port
    assert claim_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("localhost", "localhost"),
    ],
)
def test_a_listening_address_becomes_one_that_can_be_called(host, named):
    assert reachable_host(host) == named


def test_the_reaper_knows_what_is_guarded_at_the_end_of_its_input():
    lines = ["+ 10 2\n", "+ 11 15\n", "- 10\n", "+ 12 15\n", "- 99\n", "\n"]
    assert reaper.read(lines) == {11: 15, 12: 15}


def test_the_reaper_kills_what_does_not_obey():
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); "
    stubborn = subprocess.Popen(
        [sys.executable, "-c", script + "time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert stubborn.stdout is not None
    with stubborn, stubborn.stdout:
        stubborn.stdout.readline()
        reaper.reap({stubborn.pid: signal.SIGTERM}, patience=0.1)
        assert stubborn.wait(timeout=5) == -signal.SIGKILL


def test_the_reaper_does_not_mind_a_process_that_is_gone():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    reaper.reap({gone.pid: signal.SIGTERM})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_an_install_behind_a_closed_directory_is_copied_with_its_libraries(tmp_path):
    package = tmp_path / "closed" / "package"
    (package / "pg" / "bin").mkdir(parents=True)
    (package / "pg" / "bin" / "postgres").write_text("program")
    (tmp_path / "closed" / "package.libs").mkdir()
    (tmp_path / "closed" / "package.libs" / "lib.so").write_text("library")
    (tmp_path / "closed").chmod(0o700)
    nobody = Identity(65534, 65534)
    for _ in range(2):
        copy = reachable(package / "pg", nobody, copies=tmp_path / "copies")
        assert (copy / "bin" / "postgres").read_text() == "program"
        assert (copy.parent.parent / "package.libs" / "lib.so").read_text() == "library"
    assert mode(tmp_path / "closed") == 0o700
    assert reachable(package / "pg", None) == package / "pg"


class Watched:
    """A supervised process with ears."""

    def __init__(self, tmp_path: Path, script: str) -> None:
        self.lines: list[str] = []
        self.heard = asyncio.Event()
        self.changes = asyncio.Queue[int | None]()
        self.supervised = Supervised(
            "worker-1",
            [sys.executable, "-u", "-c", script],
            env={},
            log=tmp_path / "worker-1.log",
            clock=SystemClock(),
            say=self.say,
            changed=lambda: self.changes.put_nowait(self.supervised.pid),
        )

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.heard.set()

    async def next_pid(self) -> int | None:
        return await asyncio.wait_for(self.changes.get(), 10)


async def test_a_process_that_ends_is_started_again(tmp_path):
    watched = Watched(tmp_path, "print('hello'); raise SystemExit(3)")
    watched.supervised.start()
    first = await watched.next_pid()
    assert await watched.next_pid() is None
    second = await watched.next_pid()
    await watched.supervised.stop(patience=5)
    assert first is not None
    assert second not in (None, first)
    assert watched.lines[:2] == [
        "worker-1  | hello",
        "worker-1 ended (exit code 3); it starts again in 0.5 s",
    ]
    assert (tmp_path / "worker-1.log").read_text().startswith("hello\n")


async def test_a_stopped_process_stays_stopped(tmp_path):
    watched = Watched(tmp_path, "import time; time.sleep(60)")
    watched.supervised.start()
    assert await watched.next_pid() is not None
    await watched.supervised.stop(patience=5)
    await watched.supervised.stop(patience=5)
    assert watched.supervised.pid is None
    assert watched.supervised.ends == 0


async def test_a_process_that_does_not_stop_is_killed(tmp_path):
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(60)"
    watched = Watched(tmp_path, script)
    watched.supervised.start()
    await asyncio.wait_for(watched.heard.wait(), 10)
    await watched.supervised.stop(patience=0.1)
    assert watched.lines[1:] == ["worker-1 does not stop within 0.1 s and is killed"]


async def test_a_line_longer_than_any_buffer_is_kept_whole(tmp_path):
    watched = Watched(tmp_path, "print('x' * 300_000); import time; time.sleep(60)")
    watched.supervised.start()
    await asyncio.wait_for(watched.heard.wait(), 10)
    await watched.supervised.stop(patience=5)
    assert watched.lines[0] == f"worker-1  | {'x' * 300_000}"


def test_samples_cover_the_three_ways_to_repeat():
    kinds = {name: sample["schedule_kind"] for name, sample in definitions("http://x").items()}
    assert sorted(kinds.values()) == ["cron", "interval", "rrule"]
