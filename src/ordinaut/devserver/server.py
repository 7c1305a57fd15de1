"""What the embedded servers have in common: a directory, a password, a port, a process."""

from __future__ import annotations

import signal
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import psutil

from ordinaut.devserver import process
from ordinaut.devserver.files import private_token
from ordinaut.devserver.ports import free_port


class EmbeddedServer(ABC):
    """A server on a data directory, on loopback, that ends with this process at the latest.

    Its password stands beside the directory, and its log unless told otherwise.
    ``fsync=False`` gives up durability for speed: for tests only. The port is chosen at the
    first start and kept by every later one, so that clients can come back.
    """

    program: str  # its name in the list of processes
    pid_file: str  # which the server writes into its data directory
    stop_signal: signal.Signals
    stop_timeout: float  # seconds before it is killed

    def __init__(self, data_dir: Path, *, fsync: bool = True, log: Path | None = None) -> None:
        self.directory = data_dir.resolve()
        self.log = log or self.directory.with_name(f"{self.directory.name}.log")
        self.fsync = fsync
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The address with the password."""

    @abstractmethod
    def _start(self) -> None:
        """Start the process and wait until it answers."""

    @property
    def password(self) -> str:
        """The password, the same for the life of the data."""
        return private_token(self.directory.with_name(f"{self.directory.name}.password"), size=24)

    @property
    def pid(self) -> int | None:
        """The number of the server process, if it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server, on new data if there is none, and wait until it answers.

        Raises :class:`Unavailable` with the server's own complaint when it can not start.
        """
        self.kill()
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self._end_orphan()
        self.port = self.port or free_port()
        self._start()

    def stop(self) -> None:
        """Cut off the clients and stop; nothing is lost. Harmless when stopped."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill the server as a crash would; :meth:`start` recovers."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _adopt(self, child: subprocess.Popen[bytes]) -> None:
        self._process = child
        process.guard(child.pid, stop_signal=self.stop_signal)

    def _end(self, stop_signal: signal.Signals) -> None:
        if self._process is not None:
            process.stop(self._process, stop_signal=stop_signal, timeout=self.stop_timeout)
            self._process = None

    def _end_orphan(self) -> None:
        """Stop a server that an earlier owner left on the data, or remove its stale pid file.

        PostgreSQL sees through a pid that is dead or another user's, but not through one that
        now belongs to an unrelated process of the same user; Valkey checks nothing.
        """
        pid_file = self.directory / self.pid_file
        try:
            orphan = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
            ours = orphan.name() == self.program and Path(orphan.cwd()) == self.directory
        except FileNotFoundError:
            return
        except (ValueError, psutil.Error):
            ours = False
        if ours:
            process.stop_orphan(orphan, stop_signal=self.stop_signal, timeout=self.stop_timeout)
        pid_file.unlink(missing_ok=True)
