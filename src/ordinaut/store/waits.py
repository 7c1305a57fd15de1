"""Runs that wait, and the answers that let them go on.

A waiting run is a row of ``due_work`` in the state ``waiting``; each of its questions is the
record of a step in the status ``waiting``. An answer changes the record and makes the run ready,
in one transaction. A run may be under way while one of its questions is open, when something
else woke it; the answer then only changes the record, and the run finds it when it waits again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from ordinaut.model import Json, StepRecord
from ordinaut.store import runs
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import NO_ITEM, array, encode

SQL = Queries("waits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the record of a waiting step becomes."""

    run_id: UUID
    step_id: str
    index: int | None = None
    status: Literal["succeeded", "failed"] = "succeeded"
    output: Json = None
    error: Json = None
    announce: bool = True  # as step.succeeded


@dataclass(frozen=True, slots=True)
class Held:
    """A run that has not ended, kept as it is until commit."""

    state: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Question:
    """A step that waits for an event; ``wait`` is what it asked, ``sees_all`` about its owner."""

    run_id: UUID
    step_id: str
    asked_at: datetime
    owner: UUID
    sees_all: bool
    wait: Json


@dataclass(frozen=True, slots=True)
class Heard:
    """An event with its place in the outbox, and the owner of its task."""

    seq: int
    at: datetime
    topic: str
    task_id: UUID | None
    run_id: UUID | None
    subject: str
    data: Json
    owner: UUID | None


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the outbox: what ``until`` sees and ``since`` did not (None: nothing is known).

    ``news`` tells whether anything is in it.
    """

    since: str | None
    until: str
    news: bool


async def hold(tx: Tx, run_ids: Sequence[UUID], *, now: datetime | None = None) -> dict[UUID, Held]:
    """Keep those of these runs as they are that have not ended."""
    cursor = await tx.execute(SQL["hold"], {"run_ids": list(run_ids), "now": now})
    return {run_id: Held(*rest) for run_id, *rest in await cursor.fetchall()}


async def questions(tx: Tx, run_id: UUID) -> list[StepRecord]:
    """Return the steps of a run that wait, and those that a person has answered."""
    cursor = await tx.execute(SQL["questions"], {"run_id": run_id})
    return [runs.step_record(*row) for row in await cursor.fetchall()]


async def answer(
    tx: Tx, answers: Sequence[Answer], *, reason: str, now: datetime | None = None
) -> None:
    """Answer steps that wait, and make their runs ready. The caller holds the runs."""
    parameters = {
        "now": now,
        "run_ids": array([a.run_id for a in answers]),
        "step_ids": array([a.step_id for a in answers]),
        "items": array([NO_ITEM if a.index is None else a.index for a in answers]),
        "statuses": array([a.status for a in answers]),
        "outputs": array([None if a.output is None else encode(a.output) for a in answers]),
        "errors": array([None if a.error is None else encode(a.error) for a in answers]),
        "announce": array([a.announce for a in answers]),
    }
    await tx.execute(SQL["answer"], parameters)
    await wake(tx, [a.run_id for a in answers], reason=reason, now=now)


async def forget_doubts(tx: Tx, run_id: UUID) -> int:
    """Forget the calls of a run whose effect is unknown; return how many there were."""
    return (await tx.execute(SQL["forget"], {"run_id": run_id})).rowcount


async def wake(
    tx: Tx, run_ids: Sequence[UUID], *, reason: str, now: datetime | None = None
) -> None:
    """Make those of these runs ready that wait."""
    await tx.execute(SQL["wake"], {"run_ids": list(run_ids), "reason": reason, "now": now})


async def listening(tx: Tx) -> bool:
    """Tell whether any run waits for an event, or was not looked at."""
    return await (await tx.execute(SQL["listening"])).fetchone() == (True,)


async def take_place(tx: Tx) -> Place | None:
    """Take the place in the outbox up to which it was read for runs that wait, until commit.

    None when another process has it.
    """
    row = await (await tx.execute(SQL["take"])).fetchone()
    return Place(*row) if row else None


async def move_place(tx: Tx, place: Place) -> None:
    """Say that everything up to ``place.until`` was read."""
    await tx.execute(SQL["move"], {"target": place.until})


async def look_again(tx: Tx) -> None:
    """Treat all runs that wait as if nobody had looked at them."""
    await tx.execute(SQL["look_again"])


async def fresh(tx: Tx, place: Place, *, after: int, limit: int) -> list[Heard]:
    """Return events of ``place`` that somebody listens for, behind the one with seq ``after``."""
    values = {"snapshot": place.since, "target": place.until, "after": after, "limit": limit}
    return [Heard(*row) for row in await (await tx.execute(SQL["fresh"], values)).fetchall()]


async def past(
    tx: Tx, keys: Collection[str], *, since: datetime, after: int, limit: int
) -> list[Heard]:
    """Return events under ``keys`` that happened ``since`` then, behind the seq ``after``."""
    values = {"keys": list(keys), "since": since, "after": after, "limit": limit}
    return [Heard(*row) for row in await (await tx.execute(SQL["past"], values)).fetchall()]


async def asked(
    tx: Tx, *, keys: Collection[str] = (), run_ids: Sequence[UUID] = ()
) -> list[Question]:
    """Return what events may answer: of runs that listen under ``keys``, and of these runs."""
    values = {"keys": list(keys), "run_ids": list(run_ids)}
    return [Question(*row) for row in await (await tx.execute(SQL["asked"], values)).fetchall()]


async def unheard(tx: Tx, *, limit: int) -> dict[UUID, bool]:
    """Hold runs that nobody has looked at; the value tells that an answer is there already."""
    return dict(await (await tx.execute(SQL["unheard"], {"limit": limit})).fetchall())


async def hear(tx: Tx, keys: Mapping[UUID, Collection[str]]) -> None:
    """Remember under which keys runs listen, now that they were looked at."""
    pairs = [(run_id, key) for run_id, own in keys.items() for key in own]
    values = {
        "run_ids": list(keys),
        "of": [run_id for run_id, _ in pairs],
        "keys": [key for _, key in pairs],
    }
    await tx.execute(SQL["hear"], values)
