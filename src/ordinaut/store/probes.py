"""The polls of condition tasks: when, by whom, and what is known of each condition.

A row of ``probe`` is state and queue in one, so a task is never polled twice at a time. Who
claims a poll holds it for a while with a fresh token; what it found is written only while the
token is still the row's. A holder that died is followed by another when the while is over; a
change of the task takes the token away, and what was found for the old condition is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from ordinaut.model import Json
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import encode

SQL = Queries("probes")


@dataclass(frozen=True, slots=True)
class Watch:
    """How a task is polled: ``every`` in seconds, first at ``next_at``, None while it rests.

    ``patience`` is how long a poll may take before its worker counts as gone.
    """

    every: float
    patience: timedelta
    next_at: datetime | None


@dataclass(frozen=True, slots=True)
class Poll:
    """The time-limited right to poll for a task once; ``token`` proves it.

    ``armed``, ``holds``, ``fired_at`` and ``failures`` are what was known before.
    """

    task_id: UUID
    version: int
    token: int
    due_at: datetime
    expr: str
    ends_at: datetime | None
    every: float
    armed: bool
    holds: bool | None
    fired_at: datetime | None
    failures: int


@dataclass(frozen=True, slots=True)
class Polled:
    """What a poll found ``at`` an instant; ``holds`` is None when it failed with an ``error``.

    ``next_at`` is the next poll, or None when there is none.
    """

    at: datetime
    holds: bool | None
    armed: bool
    next_at: datetime | None
    fired: bool = False
    error: Json = None


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a condition; ``holds`` is None before the first poll that succeeds."""

    holds: bool | None
    since: datetime | None
    polled_at: datetime | None
    next_poll_at: datetime | None
    fired_at: datetime | None
    failures: int
    failing_since: datetime | None
    error: Json


async def watch(tx: Tx, watches: Mapping[UUID, Watch], *, anew: bool = True) -> None:
    """Poll for tasks from now on; what was known of their conditions is forgotten if ``anew``."""
    given = watches.values()
    values = {
        "task_ids": list(watches),
        "every": [one.every for one in given],
        "patience": [one.patience for one in given],
        "nexts": [one.next_at for one in given],
        "anew": anew,
    }
    await tx.execute(SQL["watch"], values)


async def forget(tx: Tx, task_id: UUID) -> None:
    """Poll no more for a task that is not of kind ``condition`` any more."""
    await tx.execute(SQL["forget"], {"task_id": task_id})


async def wake(tx: Tx, task_id: UUID, *, next_at: datetime, disarm: bool) -> None:
    """Poll again for a task that was resumed.

    What was known before stays known, so an edge that fell into the pause fires; unless it is
    ``disarm``-ed: then only what becomes true from now on counts.
    """
    values = {"task_id": task_id, "next": next_at, "disarm": disarm}
    await tx.execute(SQL["wake"], values)


async def due_in(tx: Tx) -> float | None:
    """Return the seconds until a poll is due, 0 or less when one is; None when none ever is."""
    row = await (await tx.execute(SQL["due_in"])).fetchone()
    return row[0] if row else None


async def claim(tx: Tx, *, worker_id: UUID, limit: int, now: datetime | None = None) -> list[Poll]:
    """Take up to ``limit`` polls that are due."""
    values = {"worker_id": worker_id, "limit": limit, "now": now}
    rows = await (await tx.execute(SQL["claim"], values)).fetchall()
    polls = [Poll(*row) for row in rows if row[3] is not None]  # else its task is not active
    return sorted(polls, key=lambda poll: poll.due_at)


async def settle(tx: Tx, poll: Poll, found: Polled, *, worker_id: UUID) -> bool:
    """Keep what a poll found; False when it was not ours any more."""
    values = {
        "task_id": poll.task_id,
        "token": poll.token,
        "worker_id": worker_id,
        "at": found.at,
        "holds": found.holds,
        "armed": found.armed,
        "next": found.next_at,
        "fired": found.fired,
        "error": None if found.error is None else encode(found.error),
    }
    return await (await tx.execute(SQL["settle"], values)).fetchone() is not None


async def release(tx: Tx, *, worker_id: UUID) -> None:
    """Let others poll at once what this worker has not ended."""
    await tx.execute(SQL["release"], {"worker_id": worker_id})


async def states(tx: Tx, task_ids: Sequence[UUID]) -> dict[UUID, State]:
    """Return what is known of the conditions of those tasks that have one."""
    rows = await (await tx.execute(SQL["states"], {"task_ids": list(task_ids)})).fetchall()
    return {task_id: State(*rest) for task_id, *rest in rows}
