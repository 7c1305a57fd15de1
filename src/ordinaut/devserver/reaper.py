"""Stops the processes of a parent that died.

Run as a script, with the standard library alone and in a process group of its own, which
Ctrl-C does not reach. Lines on standard input say what to guard:
``+ PID SIGNAL`` and ``- PID``. The end of the input means that the parent is gone, however it
went: everything that is still guarded then gets its signal, and SIGKILL when it does not obey.
(Linux could do this with PR_SET_PDEATHSIG, but that looks at the creating thread and macOS has
nothing like it.)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

PATIENCE = 10.0  # seconds before SIGKILL


def read(lines: Iterable[str]) -> dict[int, int]:
    """Return what is guarded when the input ends: the signal for each pid."""
    guarded: dict[int, int] = {}
    for line in lines:
        match line.split():
            case ["+", pid, number]:
                guarded[int(pid)] = int(number)
            case ["-", pid]:
                guarded.pop(int(pid), None)
    return guarded


def reap(guarded: dict[int, int], *, patience: float = PATIENCE) -> None:
    """Send each process its signal, and SIGKILL to those that outlive ``patience``."""
    left = {pid for pid, number in guarded.items() if send(pid, number)}
    deadline = time.monotonic() + patience
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = {pid for pid in left if send(pid, 0)}
    for pid in left:
        send(pid, signal.SIGKILL)


def send(pid: int, number: int) -> bool:
    """Send a signal; tell whether the process was there."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    reap(read(sys.stdin))
