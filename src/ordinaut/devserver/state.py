"""The data directory of ``ordinaut dev``: who holds it, and what scripts may read from it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil

from ordinaut.devserver import process
from ordinaut.devserver.files import write_private
from ordinaut.errors import Conflict, NotFound

FILE = "dev.json"
LOCK = "dev.lock"
LEFTOVER_TIMEOUT = 10.0  # seconds until what a killed dev left is killed too


@dataclass(frozen=True, slots=True)
class Pids:
    """The numbers of the running processes; ``None`` for one that is not ours or not there."""

    dev: int
    postgres: int | None
    valkey: int | None
    api: int | None
    scheduler: int | None
    workers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DevState:
    """What ``dev.json`` says while ``ordinaut dev`` is ready."""

    url: str
    api_key: str
    database_url: str
    redis_url: str
    pids: Pids

    def write(self, directory: Path) -> None:
        """Write the file whole, readable by its owner alone."""
        write_private(directory / FILE, json.dumps(asdict(self), indent=2) + "\n")


def read(directory: Path) -> DevState:
    """Read ``dev.json``; raises :class:`NotFound` when no dev is ready on ``directory``."""
    try:
        found: dict[str, Any] = json.loads((directory / FILE).read_text())
    except FileNotFoundError:
        raise NotFound(f"no ordinaut dev is running on {directory}") from None
    pids = found.pop("pids")
    return DevState(**found, pids=Pids(**{**pids, "workers": tuple(pids["workers"])}))


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Own ``directory`` until the block ends; raises :class:`Conflict` that names the holder.

    The kernel gives the lock back when its holder dies, so a killed dev leaves none.
    """
    with _open_lock(directory) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise Conflict(
                f"another ordinaut dev (pid {holder}) runs on {directory}; "
                "stop it, or choose another --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        end_leftovers(directory)
        try:
            yield
        finally:
            (directory / FILE).unlink(missing_ok=True)


def _open_lock(directory: Path) -> TextIO:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (directory / LOCK).open("a+")
    except OSError as error:
        raise Conflict(
            f"{error.filename} can not be used: {error.strerror}; choose another --data-dir"
        ) from None


def end_leftovers(directory: Path) -> None:
    """Stop the processes of a dev that was killed; its reaper may still be at it, or dead too.

    The servers see to their own: see :meth:`EmbeddedServer.start`.
    """
    with suppress(NotFound, ValueError, TypeError, KeyError):
        pids = read(directory).pids
        for pid in (pids.api, pids.scheduler, *pids.workers):
            with suppress(psutil.Error):
                if pid is not None and "ordinaut" in (left := psutil.Process(pid)).cmdline():
                    process.stop_orphan(left, stop_signal=signal.SIGTERM, timeout=LEFTOVER_TIMEOUT)
    (directory / FILE).unlink(missing_ok=True)
