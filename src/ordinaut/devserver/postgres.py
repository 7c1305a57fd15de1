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

import psycopg

from ordinaut.devserver.binaries import Programs, drop_to, find_install, reachable
from ordinaut.devserver.ports import LOOPBACK
from ordinaut.devserver.server import EmbeddedServer
from ordinaut.errors import Conflict, Unavailable

NAME = "ordinaut"  # of the role and of the database
DEFAULT_MAJOR = 16
START_TIMEOUT = 120.0  # seconds; recovery after a crash replays the log first
BUSY_TIMEOUT = 15.0  # seconds; what a killed server leaves needs a moment to go away
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """One PostgreSQL server; see :class:`EmbeddedServer`."""

    program = "postgres"
    pid_file = "postmaster.pid"
    stop_signal = signal.SIGINT  # a fast shutdown, which writes one checkpoint
    stop_timeout = 30.0

    def __init__(
        self,
        data_dir: Path,
        *,
        major: int | None = None,
        fsync: bool = True,
        log: Path | None = None,
    ) -> None:
        super().__init__(data_dir, fsync=fsync, log=log)
        self._major = major

    @property
    def url(self) -> str:
        """The address of the database ``ordinaut``, with the password."""
        return self.url_of(NAME)

    def url_of(self, database: str) -> str:
        """Return the address of another database of this server."""
        return self.url_for(NAME, self.password, database=database)

    def url_for(self, role: str, password: str, *, database: str = NAME) -> str:
        """Return the address of a database for another role."""
        return f"postgresql://{role}:{password}@{LOOPBACK}:{self.port}/{database}"

    def _start(self) -> None:
        identity = drop_to(self.directory)
        install = reachable(find_install(self._choose_major()), identity)
        programs = Programs(install, self.directory, identity)
        if not self.directory.exists():
            self._create(programs)
        self._launch(programs)

    def _choose_major(self) -> int:
        version = self.directory / "PG_VERSION"
        if not version.exists():
            return self._major or DEFAULT_MAJOR
        found = int(version.read_text())
        if self._major not in (None, found):
            raise Conflict(
                f"{self.directory} holds data of PostgreSQL {found}, not {self._major}; "
                "leave ORDINAUT_PG_MAJOR unset or choose another data directory"
            )
        return found

    def _create(self, programs: Programs) -> None:
        """Make a new cluster beside its place and move it there when it is complete."""
        draft = self.directory.with_name(f"{self.directory.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if programs.identity is not None:
            os.chown(draft, programs.identity.uid, programs.identity.gid)
        drafting = replace(programs, directory=draft)
        initdb(drafting, sync=self.fsync)
        run_sql(
            drafting,
            f"ALTER ROLE {NAME} PASSWORD '{self.password}'",
            f"CREATE DATABASE {NAME}",
        )
        draft.rename(self.directory)

    def _launch(self, programs: Programs) -> None:
        settings = {**SETTINGS, "port": str(self.port), **({} if self.fsync else UNSAFE)}
        deadline = time.monotonic() + BUSY_TIMEOUT
        written = self.log.stat().st_size if self.log.exists() else 0
        while not self._try_launch(programs, settings):
            self.kill()
            complaint = self.log.read_bytes()[written:].decode(errors="replace").strip()
            # The processes of a killed server hold its memory and port for a second or two.
            if "in use" not in complaint or time.monotonic() > deadline:
                raise Unavailable(f"the embedded PostgreSQL does not start:\n{complaint}")
            time.sleep(0.2)

    def _try_launch(self, programs: Programs, settings: dict[str, str]) -> bool:
        """Start the server; false when it ends before it answers."""
        self._adopt(serve(programs, settings, log=self.log))
        deadline = time.monotonic() + START_TIMEOUT
        while self.pid is not None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url, connect_timeout=5).close()
                return True
            if time.monotonic() > deadline:
                raise Unavailable(f"the embedded PostgreSQL does not answer: see {self.log}")
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
