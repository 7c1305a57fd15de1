"""How much the threads of an extension compute, which is at the expense of all others.

The interpreter's lock lets one thread compute at a time, so a thread that does nothing else
for seconds is a fault of its extension; one that sleeps or waits is not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.5  # of the time spent computing, or waiting for a processor to do so


class Pulse:
    """Whether a loop answers, and how much its thread computes while it does not."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._answered = True
        self._asked_at = 0.0
        self._cpu = 0.0

    def is_lost(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> bool:
        """Ask the loop, or look how long it has not answered."""
        now, cpu = time.monotonic(), cpu_seconds(thread)
        if self._answered:
            self._answered, self._asked_at, self._cpu = False, now, cpu
            with suppress(RuntimeError):  # it closed this instant
                loop.call_soon_threadsafe(self._answer)
            return False
        waited = now - self._asked_at
        return waited >= self._patience and cpu - self._cpu >= waited * SHARE

    def silence(self) -> float:
        """Return the seconds since a question that was not answered yet, or 0."""
        return 0.0 if self._answered else time.monotonic() - self._asked_at

    def _answer(self) -> None:
        self._answered = True


@dataclass(frozen=True, slots=True)
class Effort:
    """One job of a thread, computing ever ``since``, as it was seen ``at`` last."""

    job: object
    since: float
    at: float
    cpu: float


class Efforts:
    """How long each of some threads has computed at one job, without a pause."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seen: dict[int | None, Effort] = {}

    def are_too_much(self, threads: Iterable[threading.Thread]) -> bool:
        """Look at all of them, and tell whether one has computed for too long."""
        seen = {thread.ident: self._look(thread) for thread in threads}
        self._seen = seen
        return any(one.at - one.since >= self._patience for one in seen.values())

    def _look(self, thread: threading.Thread) -> Effort:
        now, cpu = time.monotonic(), cpu_seconds(thread)
        # anyio notes here when the thread ended a job, so a new value means another job.
        job = getattr(thread, "idle_since", None)
        last = self._seen.get(thread.ident)
        if last is None or last.job != job or cpu - last.cpu < (now - last.at) * SHARE:
            return Effort(job, now, now, cpu)
        return Effort(job, last.since, now, cpu)


def cpu_seconds(thread: threading.Thread) -> float:
    """The time a thread wanted to compute; 0 where the platform can not tell (macOS)."""
    # Not time.pthread_getcpuclockid(): a thread that ends meanwhile may take the process along.
    try:
        text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
    except OSError:
        return 0.0
    computed, waited, _ = map(int, text.split())
    return (computed + waited) / 1e9
