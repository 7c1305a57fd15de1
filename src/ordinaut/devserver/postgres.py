"""A private PostgreSQL for development and tests: real, durable, gone with its owner."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg

from ordinaut.devserver import process
from ordinaut.devserver.binaries import Programs, drop_to, find_install, reachable
from ordinaut.devserver.files import private_token
from ordinaut.errors import Conflict, Unavailable

NAME = "ordinaut"  # of the role and of the database
DEFAULT_MAJOR = 16
START_TIMEOUT = 120.0  # seconds; recovery after a crash replays the log first
STOP_TIMEOUT = 30.0  # seconds; a fast shutdown writes one checkpoint
BUSY_TIMEOUT = 15.0  # seconds; what a killed server leaves needs a moment to go away
SETTINGS = {
    "listen_addresses": process.LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One PostgreSQL server on a data directory, on loopback, with a password.

    Its log and its password stand beside the directory. ``fsync=False`` gives up durability
    for speed: for tests only. The port is chosen at the first start and kept by every later
    one, so that clients can come back.
    """

    def __init__(self, data_dir: Path, *, major: int | None = None, fsync: bool = True) -> None:
        self._dir = data_dir.resolve()
        self._major = major
        self._fsync = fsync
        self._log = self._dir.with_name(f"{self._dir.name}.log")
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address of the database ``ordinaut``, with the password."""
        return self.url_of(NAME)

    def url_of(self, database: str) -> str:
        """Return the address of another database of this server."""
        return f"postgresql://{NAME}:{self._password()}@{process.LOOPBACK}:{self._port}/{database}"

    @property
    def pid(self) -> int | None:
        """The number of the server process, if it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server, on new data if there is none, and wait until it answers."""
        self._dir.parent.mkdir(parents=True, exist_ok=True)
        identity = drop_to(self._dir)
        install = reachable(find_install(self._choose_major()), identity)
        programs = Programs(install, self._dir, identity)
        if not self._dir.exists():
            self._create(programs)
        end_orphan(self._dir)
        self._port = self._port or process.free_port()
        self._launch(programs)

    def stop(self) -> None:
        """Shut down fast: clients are cut off, nothing is lost. Harmless when stopped."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server as a crash would; :meth:`start` recovers."""
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

    def _choose_major(self) -> int:
        version = self._dir / "PG_VERSION"
        if not version.exists():
            return self._major or DEFAULT_MAJOR
        found = int(version.read_text())
        if self._major not in (None, found):
            raise Conflict(
                f"{self._dir} holds data of PostgreSQL {found}, but {self._major} was asked for; "
                "leave ORDINAUT_PG_MAJOR unset or choose another data directory"
            )
        return found

    def _create(self, programs: Programs) -> None:
        """Make a new cluster beside its place and move it there when it is complete."""
        draft = self._dir.with_name(f"{self._dir.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if programs.identity is not None:
            os.chown(draft, programs.identity.uid, programs.identity.gid)
        drafting = replace(programs, directory=draft)
        initdb(drafting, sync=self._fsync)
        run_sql(
            drafting,
            f"ALTER ROLE {NAME} PASSWORD '{self._password()}'",
            f"CREATE DATABASE {NAME}",
        )
        draft.rename(self._dir)

    def _launch(self, programs: Programs) -> None:
        settings = {**SETTINGS, "port": str(self._port), **({} if self._fsync else UNSAFE)}
        deadline = time.monotonic() + BUSY_TIMEOUT
        written = self._log.stat().st_size if self._log.exists() else 0
        while not self._try_launch(programs, settings):
            self._end(signal.SIGKILL)
            complaint = self._log.read_bytes()[written:].decode(errors="replace").strip()
            # The processes of a killed server hold its memory and port for a second or two.
            if "in use" not in complaint or time.monotonic() > deadline:
                raise Unavailable(f"the embedded PostgreSQL does not start:\n{complaint}")
            time.sleep(0.2)

    def _try_launch(self, programs: Programs, settings: dict[str, str]) -> bool:
        """Start the server; false when it ends before it answers."""
        self._process = serve(programs, settings, log=self._log)
        process.guard(self._process.pid, stop_signal=signal.SIGINT)
        deadline = time.monotonic() + START_TIMEOUT
        while self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url, connect_timeout=5).close()
                return True
            if time.monotonic() > deadline:
                raise Unavailable(f"the embedded PostgreSQL does not answer: see {self._log}")
            time.sleep(0.02)
        return False


def initdb(programs: Programs, *, sync: bool) -> None:
    """Make a new cluster in the directory of ``programs``."""
    options = ["-D", programs.data, "--data-checksums", "--encoding=UTF8", f"--username={NAME}"]
    options += ["--auth-host=scram-sha-256", "--auth-local=reject"]
    options += [] if sync else ["--no-sync"]
    for locale in ("C.UTF-8", "C"):  # macOS has no C.UTF-8
        done = programs.run("initdb", *options, f"--locale={locale}")
        if done.returncode == 0:
            return
    raise Unavailable(f"initdb failed: {done.stderr.strip()}")


def run_sql(programs: Programs, *statements: str) -> None:
    """Run statements while no server runs: there is no password yet to connect with."""
    text = "".join(f"{statement};\n" for statement in statements)
    done = programs.run("postgres", "--single", "-D", programs.data, "postgres", text=text)
    if done.returncode != 0 or "ERROR:" in done.stderr:
        raise Unavailable(f"postgres --single failed: {done.stderr.strip()}")


def serve(programs: Programs, settings: dict[str, str], *, log: Path) -> subprocess.Popen[bytes]:
    """Start the server process with its output appended to ``log``."""
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    with log.open("ab") as output:
        return subprocess.Popen(
            [programs.path("postgres"), "-D", programs.data, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **programs.context,
        )


def end_orphan(data_dir: Path) -> None:
    """Stop a server that an earlier owner left on ``data_dir``, or remove its stale pid file.

    PostgreSQL sees through a pid that is dead or another user's, but not through one that now
    belongs to an unrelated process of the same user.
    """
    pid_file = data_dir / "postmaster.pid"
    try:
        orphan = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
        ours = orphan.name() == "postgres" and Path(orphan.cwd()) == data_dir
    except FileNotFoundError:
        return
    except (ValueError, psutil.Error):
        ours = False
    if not ours:
        pid_file.unlink(missing_ok=True)
        return
    orphan.send_signal(signal.SIGINT)
    try:
        orphan.wait(STOP_TIMEOUT)
    except psutil.TimeoutExpired:
        orphan.kill()
