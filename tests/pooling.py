"""PgBouncer in transaction mode before the PostgreSQL of the tests, where it is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psycopg

from ordinaut.devserver import process
from ordinaut.devserver.ports import LOOPBACK, free_port
from ordinaut.devserver.postgres import EmbeddedPostgres

ABSENT = "there is no pgbouncer; apt-get install pgbouncer"
PATIENCE = 20.0  # seconds until it answers
CONNECTIONS = 8  # to PostgreSQL, for each database; fewer than our processes open
SETTINGS = f"""
[databases]
* = host={LOOPBACK} port=%(server_port)d

[pgbouncer]
listen_addr = {LOOPBACK}
listen_port = %(port)d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %(users)s
pool_mode = transaction
default_pool_size = {CONNECTIONS}
max_client_conn = 500
; Each transaction goes to another connection than the last: what a session kept would be missed.
server_round_robin = 1
"""


def find() -> str | None:
    """Return the program, which Debian keeps where only root looks."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer:
    """A pooler in front of one server, for all of its databases."""

    def __init__(self, server: EmbeddedPostgres, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def url_of(self, direct: str) -> str:
        """Return how a database with this address is reached through the pooler."""
        parts = urlsplit(direct)
        there = f"{parts.username}:{parts.password}@{LOOPBACK}:{self._port}"
        return parts._replace(netloc=there).geturl()

    def __enter__(self) -> Self:
        program = find()
        assert program is not None, ABSENT
        self._port = free_port()
        parts = urlsplit(self._server.url)
        users = self._folder / "users.txt"
        users.write_text(f'"{parts.username}" "{parts.password}"\n')
        names = {"server_port": self._server.port, "port": self._port, "users": "users.txt"}
        (self._folder / "pgbouncer.ini").write_text(SETTINGS % names)
        # It refuses to be root; what it reads is handed on as its working directory.
        identity = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        if identity:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, "nobody")
        with (self._folder / "pgbouncer.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "pgbouncer.ini"], cwd=self._folder, stderr=log, **identity
            )
        process.guard(self._process.pid, stop_signal=signal.SIGKILL)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            process.stop(self._process, stop_signal=signal.SIGTERM, timeout=5)
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url_of(self._server.url), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "pgbouncer.log").read_text()
                    raise AssertionError(f"PgBouncer does not answer: {error}\n{log}") from None
            time.sleep(0.05)
