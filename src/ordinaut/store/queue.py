"""The queue: who may execute what, and how it ends.

A row of ``due_work`` is one run that has not ended; its id is the id of the run. ::

                 enqueue
                    │
       ┌────────────┴───────────┐
    scheduled ──promote──► ready ──lease──► leased ──settle──► task_run (history)
       ▲                     ▲  ◄──release────┤
       │                     ├──◄──expire─────┤   (crashes > limit ──► dead)
       └────── park ─────────│────────────────┘
            waiting ─promote─┘        cancel: a row that nobody holds ends at once,
                                      a holder is asked to stop

Every lease has a new ``lease_token``, and every write about the run names it together with the
holder. What a write did not touch is not ours any more, and each function tells which runs
those are. So a worker that slept through its lease can do no harm, whatever it believes.

All functions take a connection first and read the database's clock; ``now`` replaces it in
tests. They work on many runs at a time because the commit is what costs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from ordinaut.errors import Conflict, NotFound
from ordinaut.model import NO_LANE, NOBODY, Lane, Lease, NewWork, StepRecord
from ordinaut.store.database import Queries, Tx
from ordinaut.store.results import NO_ITEM, Checkpoint, Ended, Parked, array, encode, step_columns

SQL = Queries("queue")

MAX_CRASHES = 5  # workers that one run may take down before it is buried
GATE = 0x0D14A6A7E  # advisory lock: one lease at a time counts the runs of concurrency keys
WORK_CHANNEL = "ordinaut_work"
CANCEL_CHANNEL = "ordinaut_cancel"


class Turn(NamedTuple):
    """Who is served first next time: agents from this id on, keys behind this one.

    ``found`` tells whether there was something since the first of the keys.
    """

    agent: UUID = NOBODY
    key: str = ""
    found: bool = False


START = Turn()


class Mark(NamedTuple):
    """Where work was found last: of these agents, none of it before this place in the order."""

    agents: frozenset[UUID]
    place: int


@dataclass(frozen=True, slots=True)
class Leased:
    """What was taken.

    ``keyed`` tells whether work with a concurrency key is or was waiting; ``more`` that there
    may be other work; ``turn`` is for the next call. ``rows`` are what PostgreSQL answered.
    """

    leases: list[Lease]
    keyed: bool
    more: bool = False
    turn: Turn = START
    rows: Sequence[tuple[Any, ...]] = ()

    @property
    def mark(self) -> Mark | None:
        """Where to go on without looking at what lies before; None if there was nothing."""
        if not self.leases:
            return None
        return Mark(frozenset(row[4] for row in self.rows), self.rows[0][3])


@dataclass(frozen=True, slots=True)
class Expired:
    """What the janitor did with leases that ran out."""

    requeued: int
    buried: int


@dataclass(frozen=True, slots=True)
class Canceled:
    """Runs that ended at once, and runs whose holders were asked to stop."""

    ended: tuple[UUID, ...]
    asked: tuple[UUID, ...]


async def enqueue(
    tx: Tx, items: Sequence[NewWork], *, wake: bool = False, now: datetime | None = None
) -> list[UUID]:
    """Create runs and return the ids of those whose occurrence was not queued before.

    With ``wake`` the commit also does what :func:`hint` does, at no further round trip.
    """
    if not items:
        return []
    parameters = {
        "now": now,
        "wake": wake,
        "ids": array([w.id for w in items]),
        "task_ids": array([w.task_id for w in items]),
        "versions": array([w.task_version for w in items]),
        "scheduled_fors": array([w.scheduled_for for w in items]),
        "run_ats": array([w.run_at for w in items]),
        "priorities": array([w.priority for w in items]),
        "triggers": array([w.trigger for w in items]),
        "payloads": array([None if w.payload is None else encode(w.payload) for w in items]),
        "owners": array([w.created_by for w in items]),
        "keys": [w.lane.concurrency_key for w in items],
        "maxima": array([w.lane.max_concurrency for w in items]),
        "rate_runs": array([w.lane.rate and w.lane.rate.runs for w in items]),
        "rate_seconds": array([w.lane.rate and w.lane.rate.seconds for w in items]),
    }
    return [row[0] for row in await _rows(tx, "enqueue", parameters)]


async def promote(tx: Tx, *, limit: int, now: datetime | None = None) -> int:
    """Make ready what was scheduled for, or waits until, a time that has come."""
    [(count,)] = await _rows(tx, "promote", {"now": now, "limit": limit})
    return int(count)


async def next_wake(tx: Tx) -> datetime | None:
    """Return the earliest instant at which :func:`promote` finds something."""
    rows = await _rows(tx, "next_wake", {})
    return rows[0][0] if rows else None


async def lease(
    tx: Tx,
    *,
    worker_id: UUID,
    limit: int,
    lease_for: timedelta,
    keyed: bool = True,
    turn: Turn = START,
    beyond: Mark | None = None,
    now: datetime | None = None,
) -> Leased:
    """Take up to ``limit`` runs, of each agent the most urgent first, within their limits.

    Agents that have work waiting get equal shares (deficit round robin), or turns when there are
    more of them than runs to take, as have concurrency keys beyond a few hundred. Without ``keyed``
    only work without such a key is taken, in one round trip; the answer tells if there is other.
    With ``beyond`` only what comes behind a mark is taken, and nothing with a key.
    """
    parameters = {
        "worker_id": worker_id,
        "limit": limit,
        "lease_for": lease_for,
        "turn": turn.agent,
        "key": turn.key,
        "now": now,
    }
    if beyond is not None:
        parameters |= {"agents": array(list(beyond.agents)), "place": beyond.place}
        return _leased(await _rows(tx, "lease_beyond", parameters), limit=limit, turn=START)
    if not keyed:
        return _leased(await _rows(tx, "lease", parameters), limit=limit, turn=turn)
    async with tx.transaction():
        [(alone,)] = await _rows(tx, "gate", {"lock": GATE})
        rows = await _rows(tx, "lease_urgent" if alone else "lease", parameters)
        if alone and not rows[0][0]:  # a key is full
            rows = await _rows(tx, "lease_keyed", parameters)
    return _leased(rows, limit=limit, turn=turn)


async def reclaim(tx: Tx, *, worker_id: UUID, known: Sequence[UUID]) -> int:
    """Give back what this worker holds without knowing it; return how much that was.

    That happens when the connection breaks between a lease's commit and its answer.
    """
    found = await _rows(tx, "reclaim", {"worker_id": worker_id, "known": array(known)})
    fence = {"ids": array([r[0] for r in found]), "tokens": array([r[1] for r in found])}
    started = array([False] * len(found))
    rows = await _rows(
        tx, "release", {"worker_id": worker_id, "now": None, "started": started, **fence}
    )
    return len(await _end_canceled(tx, rows))


async def renew(
    tx: Tx,
    leases: Sequence[Lease],
    *,
    worker_id: UUID,
    lease_for: timedelta,
    now: datetime | None = None,
) -> dict[UUID, bool]:
    """Extend leases; return those that are still ours, each with whether it shall stop."""
    parameters = {"worker_id": worker_id, "lease_for": lease_for, "now": now, **_fence(leases)}
    return dict(await _rows(tx, "renew", parameters))


async def release(
    tx: Tx,
    *,
    worker_id: UUID,
    unstarted: Sequence[Lease] = (),
    started: Sequence[Lease] = (),
    now: datetime | None = None,
) -> set[UUID]:
    """Give work back at once without spending an attempt; return what was still ours."""
    leases = [*unstarted, *started]
    if not leases:
        return set()
    flags = array([False] * len(unstarted) + [True] * len(started))
    parameters = {"worker_id": worker_id, "now": now, "started": flags, **_fence(leases)}
    return await _end_canceled(tx, await _rows(tx, "release", parameters), now=now)


async def settle(tx: Tx, batch: Sequence[Ended], *, worker_id: UUID) -> set[UUID]:
    """End runs in one statement; return the ids of those that were not ours any more."""
    if not batch:
        return set()
    columns = zip(*batch, strict=True)
    leases, statuses, started_ats, finished_ats, outputs, errors, _, _, earlier = columns
    parameters = {
        "worker_id": worker_id,
        "statuses": array(statuses),
        "started_ats": array(started_ats),
        "finished_ats": array(finished_ats),
        "outputs": array(outputs),
        "errors": array(errors),
        "earlier": f"[{','.join(earlier)}]",
        **_fence(leases),
        **step_columns(batch),
    }
    rows = await _rows(tx, "settle", parameters)
    return {e.lease.id for e in batch}.difference(rows[0][0]) if rows else set()


async def park(tx: Tx, batch: Sequence[Parked], *, worker_id: UUID) -> set[UUID]:
    """Put runs back for later; return the ids of those that were not ours any more."""
    if not batch:
        return set()
    parameters = {
        "worker_id": worker_id,
        "announce": array([p.announce for p in batch]),
        "run_ats": array([p.run_at for p in batch]),
        "waits": array([p.wait for p in batch]),
        "errors": array([p.error for p in batch]),
        "steps": array([encode(p.steps) for p in batch]),
        **_fence([p.lease for p in batch]),
    }
    ours = await _end_canceled(tx, await _rows(tx, "park", parameters))
    return {p.lease.id for p in batch} - ours


async def checkpoint(tx: Tx, batch: Sequence[Checkpoint], *, worker_id: UUID) -> set[UUID]:
    """Keep steps of runs that go on; return the ids of those that are not ours any more.

    Without steps it notes that a run has started.
    """
    if not batch:
        return set()
    parameters = {
        "worker_id": worker_id,
        "announce": array([c.announce for c in batch]),
        "steps": array([encode(c.steps) for c in batch]),
        **_fence([c.lease for c in batch]),
    }
    rows = await _rows(tx, "checkpoint", parameters)
    return {c.lease.id for c in batch}.difference(row[0] for row in rows)


async def checkpoints(tx: Tx, ids: Sequence[UUID]) -> dict[UUID, list[StepRecord]]:
    """Return what runs have already done."""
    found: dict[UUID, list[StepRecord]] = {run_id: [] for run_id in ids}
    for run_id, step_id, item, *rest in await _rows(tx, "checkpoints", {"ids": list(ids)}):
        found[run_id].append(_step_record(step_id, item, *rest))
    return found


async def settled(tx: Tx, leases: Sequence[Lease], *, worker_id: UUID) -> set[UUID]:
    """Return the runs that ended with exactly these leases: for a commit of unknown outcome."""
    parameters = {"worker_id": worker_id, **_fence(leases)}
    return {row[0] for row in await _rows(tx, "settled", parameters)}


async def expire(tx: Tx, *, limit: int, now: datetime | None = None) -> Expired:
    """Take runs from holders that stopped renewing; bury those that keep killing workers."""
    parameters = {"now": now, "limit": limit, "max_crashes": MAX_CRASHES}
    [(requeued, buried)] = await _rows(tx, "expire", parameters)
    return Expired(requeued, buried)


async def cancel(
    tx: Tx,
    *,
    run_ids: Sequence[UUID] = (),
    task_ids: Sequence[UUID] = (),
    reason: str = "canceled on request",
    now: datetime | None = None,
) -> Canceled:
    """Cancel runs by their own ids or their tasks'; ids that are not queued are ignored."""
    parameters = {
        "run_ids": list(run_ids),
        "task_ids": list(task_ids),
        "reason": reason,
        "now": now,
    }
    rows = await _rows(tx, "cancel", parameters)
    asked = tuple(run_id for run_id, over in rows if not over)
    if asked:
        await tx.execute(SQL["hint_cancel"])
    return Canceled(tuple(run_id for run_id, over in rows if over), asked)


async def redrive(
    tx: Tx,
    run_id: UUID,
    *,
    lane: Lane = NO_LANE,
    forget: Collection[str] = (),
    now: datetime | None = None,
) -> None:
    """Queue a run that ended badly once more, from its checkpoints but those to ``forget``.

    Raises :class:`NotFound` when no failed, dead or canceled run has this id, and
    :class:`Conflict` when its occurrence is queued again already.
    """
    parameters = {
        "run_id": run_id,
        "forget": list(forget),
        "key": lane.concurrency_key,
        "most": lane.max_concurrency,
        "rate_runs": lane.rate and lane.rate.runs,
        "rate_seconds": lane.rate and lane.rate.seconds,
        "now": now,
    }
    [(found, made)] = await _rows(tx, "redrive", parameters)
    if not found:
        raise NotFound(f"no failed, dead or canceled run {run_id}")
    if not made:
        raise Conflict(f"the occurrence of run {run_id} is queued already")


async def hint(tx: Tx) -> None:
    """Wake idle workers; call it once after a batch."""
    await tx.execute(SQL["hint"])


async def _rows(tx: Tx, name: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    cursor = await tx.execute(SQL[name], parameters, binary=True)
    return await cursor.fetchall()


async def _end_canceled(
    tx: Tx, rows: Iterable[tuple[UUID, bool]], *, now: datetime | None = None
) -> set[UUID]:
    """End what came back to the queue although it was asked to stop; return all ids."""
    ids = dict(rows)
    if canceled := [run_id for run_id, requested in ids.items() if requested]:
        await cancel(tx, run_ids=canceled, now=now)
    return set(ids)


def _leased(rows: list[tuple[Any, ...]], *, limit: int, turn: Turn) -> Leased:
    keyed, several, key, first, *_ = rows[0]
    if first is None:
        # Once round all keys, and no further: they may be full.
        if key is None:
            return Leased([], keyed, turn.found or turn.agent != NOBODY)
        return Leased([], keyed, more=True, turn=Turn(NOBODY, key, turn.found))
    rows.sort(key=itemgetter(3))  # RETURNING has no order
    leases = [Lease._make(row[5:]) for row in rows]
    full = len(leases) == limit
    agent = UUID(int=max(row[4] for row in rows).int + 1) if full and several else NOBODY
    more = full or several or key is not None or turn != START
    return Leased(leases, keyed, more, Turn(agent, key or "", found=key is not None), rows)


def _fence(leases: Sequence[Lease]) -> dict[str, Any]:
    ids, tokens = [held.id for held in leases], [held.token for held in leases]
    return {"ids": array(ids), "tokens": array(tokens)}


def _step_record(step_id: str, item: int, *rest: Any) -> StepRecord:
    status, attempt, uses, started_at, finished_at, output, error = rest
    index = None if item == NO_ITEM else item
    return StepRecord(step_id, status, attempt, started_at, finished_at, uses, index, output, error)
