"""Child processes that never outlive this one."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

import psutil

from ordinaut.devserver import reaper


@functools.cache
def _reaper() -> int:
    """Start the reaper of this process, once; return the pipe that it listens to.

    Nothing closes the pipe: the end of this process does, and that is the message.
    """
    theirs, ours = os.pipe()
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", str(Path(reaper.__file__))],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0)],
        setpgroup=0,  # Ctrl-C in the terminal is not for it
    )
    os.close(theirs)
    return ours


def guard(pid: int, *, stop_signal: int) -> None:
    """Have ``stop_signal`` sent to ``pid`` when this process ends in any way."""
    _tell(f"+ {pid} {stop_signal}\n")


def release(pid: int) -> None:
    """Take back :func:`guard`: the process ended, its number may soon be another's."""
    _tell(f"- {pid}\n")


def _tell(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # somebody killed the reaper: work goes on
        os.write(_reaper(), line.encode())


def stop(process: subprocess.Popen[bytes], *, stop_signal: int, timeout: float) -> None:
    """End a child: ask, wait ``timeout`` seconds, then kill. Harmless when it has ended."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    release(process.pid)


def stop_orphan(orphan: psutil.Process, *, stop_signal: int, timeout: float) -> None:
    """End a process that is not our child, in the same way."""
    with contextlib.suppress(psutil.NoSuchProcess):
        orphan.send_signal(stop_signal)
        try:
            orphan.wait(timeout)
        except psutil.TimeoutExpired:
            orphan.kill()
