"""Writes down what became of runs, many of them at a time.

One flush is under way at any moment. What ends meanwhile is in the next one, so batches grow by
themselves under load, and a quiet worker writes at once. ::

    end, park, checkpoint ──► pending ──► store ──► ours: done
                                │          │        not ours: the lease was lost
                                │          ├─ connection lost ─► reconcile, store again
                                │          └─ refused ─► halves … ─► one bad row ─► a failure
                                └─ all that is here is renewed by the heartbeat
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import psycopg

from ordinaut.clock import Clock
from ordinaut.errors import LeaseLost, OrdinautError
from ordinaut.model import Lease, StepRecord
from ordinaut.store import queue, results
from ordinaut.store.database import Tx
from ordinaut.store.results import Checkpoint, Ended, Parked
from ordinaut.telemetry import emit, logger
from ordinaut.workers.line import Line, is_passing, pause

MAX_RUNS = 1_000  # in one flush
MAX_SIZE = 16 * 1024 * 1024  # characters of JSON in one flush
MAX_PENDING = 4_000  # runs that wait for a flush before slots have to wait
MAX_MESSAGE = 500

log = logger(__name__)


class NotStorable(OrdinautError):
    """PostgreSQL refused the data of a step."""

    code = "not_storable"


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint that somebody may wait for."""

    checkpoint: Checkpoint
    records: tuple[StepRecord, ...]
    written: asyncio.Future[None]


Item: TypeAlias = Ended | Parked | Note


@dataclass(slots=True)
class Batch:
    """What one flush writes."""

    ended: list[Ended] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def items(self) -> list[Item]:
        return [*self.notes, *self.parked, *self.ended]

    def leases(self) -> Iterator[Lease]:
        yield from (e.lease for e in self.ended)
        yield from (p.lease for p in self.parked)
        yield from (n.checkpoint.lease for n in self.notes)

    def kinds(self) -> int:
        return bool(self.ended) + bool(self.parked) + bool(self.notes)

    @classmethod
    def of(cls, items: list[Item]) -> Batch:
        return cls(
            [i for i in items if isinstance(i, Ended)],
            [i for i in items if isinstance(i, Parked)],
            [i for i in items if isinstance(i, Note)],
        )


class Settler:
    """Owns the connection on which runs are settled."""

    def __init__(self, line: Line, *, worker_id: UUID, clock: Clock) -> None:
        self.settled: Callable[[], None] = lambda: None  # called after each flush
        self._line = line
        self._worker_id = worker_id
        self._clock = clock
        self._ended: deque[Ended] = deque()
        self._parked: list[Parked] = []
        self._notes: list[Note] = []
        self._writing = Batch()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def settle(self, result: Ended | Parked) -> None:
        """Write down with the next flush how a run ended or why it waits."""
        if isinstance(result, Ended):
            self._ended.append(result)
        else:
            self._parked.append(result)
        self._push()

    def note(
        self, lease: Lease, records: tuple[StepRecord, ...] = (), *, announce: bool
    ) -> asyncio.Future[None]:
        """Write down steps of a run that goes on; the future is done when they are durable.

        It raises :class:`LeaseLost` when the run is not ours any more, and
        :class:`NotStorable` when the database refuses the records.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        steps = results.encode_steps(records)
        checkpoint = Checkpoint(lease=lease, steps=steps, announce=announce)
        self._notes.append(Note(checkpoint, records, written))
        self._push()
        return written

    def _push(self) -> None:
        self._some.set()
        self._quiet.clear()

    async def room(self) -> None:
        """Wait while so much is pending that more would only pile up."""
        while len(self._ended) >= MAX_PENDING:
            self._room.clear()
            await self._room.wait()

    @property
    def crowded(self) -> bool:
        return len(self._ended) >= MAX_PENDING

    def leases(self) -> list[Lease]:
        """Return the leases of all that is not written yet."""
        pending = Batch(list(self._ended), self._parked, self._notes)
        return [*self._writing.leases(), *pending.leases()]

    async def run(self) -> None:
        """Flush for ever."""
        while True:
            await self._some.wait()
            await self.run_once()

    async def run_once(self) -> None:
        """Flush once what is pending."""
        self._writing = self._take()
        await self._write(self._writing)
        self._writing = Batch()
        self._room.set()
        if not self._some.is_set():
            self._quiet.set()

    async def quiet(self) -> None:
        """Wait until nothing is pending."""
        while not self._quiet.is_set():
            await self._quiet.wait()

    def _take(self) -> Batch:
        # All checkpoints come along: one may belong to a run that ends in this very flush.
        batch = Batch(parked=self._parked, notes=self._notes)
        self._parked, self._notes = [], []
        size = 0
        while self._ended and len(batch.ended) < MAX_RUNS and size < MAX_SIZE:
            run = self._ended.popleft()
            size += len(run.steps) + len(run.output or "")
            batch.ended.append(run)
        if not self._ended:
            self._some.clear()
        return batch

    async def _write(self, batch: Batch) -> None:
        """Store a batch; when it is refused, store its halves, down to the row that is at fault."""
        try:
            ours = await self._store_surely(batch)
        except (psycopg.Error, TypeError, ValueError) as error:
            items = batch.items()
            if len(items) == 1:
                await self._replace(items[0], error)
                return
            middle = len(items) // 2
            await self._write(Batch.of(items[:middle]))
            await self._write(Batch.of(items[middle:]))
        else:
            self._answer(batch, ours)

    async def _store_surely(self, batch: Batch) -> set[UUID]:
        """Store a batch however often the connection breaks; return whose lease was ours."""
        failures = 0
        known: set[UUID] = set()
        while True:
            try:
                tx = await self._line.open()
                if failures:
                    known |= await self._reconcile(tx, batch)
                return known | await self._store(tx, batch)
            except psycopg.Error as error:
                if not is_passing(error):
                    raise
                failures += 1
                log.warning(
                    "a flush failed and is tried again", error=str(error), failures=failures
                )
                await asyncio.sleep(pause(failures))

    async def _store(self, tx: Tx, batch: Batch) -> set[UUID]:
        if batch.kinds() == 1:
            return await self._store_in(tx, batch)
        async with tx.transaction():
            return await self._store_in(tx, batch)

    async def _store_in(self, tx: Tx, batch: Batch) -> set[UUID]:
        """Checkpoints first: a run that ends in this batch may still have one."""
        notes = [note.checkpoint for note in batch.notes]
        ours = await queue.checkpoint(tx, notes, worker_id=self._worker_id)
        ours |= await queue.park(tx, batch.parked, worker_id=self._worker_id)
        return ours | await queue.settle(tx, batch.ended, worker_id=self._worker_id)

    async def _reconcile(self, tx: Tx, batch: Batch) -> set[UUID]:
        """Take out of ``batch`` what a commit without an answer has stored; return whose it was."""
        leases = [run.lease for run in batch.ended]
        stored = await queue.settled(tx, leases, worker_id=self._worker_id)
        batch.ended = [run for run in batch.ended if run.lease.id not in stored]
        noted = await queue.checkpoints(tx, [note.checkpoint.lease.id for note in batch.notes])
        kept = [n for n in batch.notes if not _is_noted(n, noted[n.checkpoint.lease.id])]
        for note in batch.notes:
            if note not in kept:
                _answer_note(note, ours=True)
        batch.notes = kept
        return stored

    def _answer(self, batch: Batch, ours: set[UUID]) -> None:
        for note in batch.notes:
            _answer_note(note, ours=note.checkpoint.lease.id in ours)
        for lease in Batch(batch.ended, batch.parked).leases():
            if lease.id not in ours:
                emit("lease.lost", run_id=lease.id)
                log.warning("a result came too late", run_id=str(lease.id))
        self.settled()
        emit("runs.settled", ended=len(batch.ended), parked=len(batch.parked))

    async def _replace(self, item: Item, error: Exception) -> None:
        """Record as a failure what can not be recorded as it is."""
        text = f"the result can not be stored: {str(error)[:MAX_MESSAGE]}"
        if isinstance(item, Note):
            if not item.written.done():
                item.written.set_exception(NotStorable(text))
            return
        log.error("a result was refused", run_id=str(item.lease.id), error=text)
        failure = refused(item, text, at=self._clock.now())
        self._answer(Batch([failure]), await self._store_surely(Batch([failure])))


def refused(item: Ended | Parked, text: str, *, at: datetime) -> Ended:
    """Return the failure that stands for a result that the database does not take."""
    return Ended(
        lease=item.lease,
        status="failed",
        started_at=item.started_at if isinstance(item, Ended) else at,
        finished_at=at,
        error=results.encode({"code": NotStorable.code, "message": text}),
        announce=item.announce,
    )


def _is_noted(note: Note, found: list[StepRecord]) -> bool:
    keys = {(r.step_id, r.index, r.status, r.attempt) for r in found}
    return bool(note.records) and all(
        (r.step_id, r.index, r.status, r.attempt) in keys for r in note.records
    )


def _answer_note(note: Note, *, ours: bool) -> None:
    if note.written.done():
        return
    if ours:
        note.written.set_result(None)
    else:
        note.written.set_exception(
            LeaseLost(f"run {note.checkpoint.lease.id} is not ours any more")
        )
