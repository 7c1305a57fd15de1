"""Writes down what became of runs, many of them at a time.

Each of two connections has one flush under way, so that one executes while the other waits for
its commit. What ends meanwhile is in the next flush: batches grow by themselves under load, and a
quiet worker writes at once. ::

    end, park, checkpoint ──► pending ──► store ──► ours: done
                                │          │        not ours: the lease was lost
                                │          ├─ connection lost ─► reconcile, store again
                                │          └─ refused ─► halves … ─► one bad row ─► a failure
                                └─ all that is here is renewed by the heartbeat
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import psycopg

from ordinaut.clock import Clock
from ordinaut.errors import LeaseLost, OrdinautError
from ordinaut.model import Lease, StepRecord
from ordinaut.store import queue
from ordinaut.store.database import Tx
from ordinaut.store.results import Checkpoint, Ended, Parked, encode, facts, step_rows
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


@dataclass(slots=True, eq=False)
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

    def __bool__(self) -> bool:
        return bool(self.ended or self.parked or self.notes)

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
    """Owns the connections on which runs are settled."""

    def __init__(self, lines: Sequence[Line], *, worker_id: UUID, clock: Clock) -> None:
        self.settled: Callable[[], None] = lambda: None  # called after each flush
        self._lines = lines
        self._worker_id = worker_id
        self._clock = clock
        self._pending = Batch()
        self._writing: list[Batch] = []
        self._asleep: deque[asyncio.Event] = deque()
        self._written = asyncio.Event()

    def settle(self, result: Ended | Parked) -> None:
        """Write down with the next flush how a run ended or why it waits."""
        if isinstance(result, Ended):
            self._pending.ended.append(result)
        else:
            self._pending.parked.append(result)
        if self._asleep:
            self._asleep.popleft().set()

    def note(
        self, lease: Lease, records: tuple[StepRecord, ...] = (), *, announce: bool
    ) -> asyncio.Future[None]:
        """Write down steps of a run that goes on; the future is done when they are durable.

        It raises :class:`LeaseLost` when the run is not ours any more, and
        :class:`NotStorable` when the database refuses the records.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        checkpoint = Checkpoint(lease, step_rows(records), announce)
        self._pending.notes.append(Note(checkpoint, records, written))
        if self._asleep:
            self._asleep.popleft().set()
        return written

    @property
    def crowded(self) -> bool:
        """Whether so much is pending that more would only pile up."""
        return len(self._pending.ended) >= MAX_PENDING

    async def room(self) -> None:
        """Wait while it is crowded."""
        while self.crowded:
            self._written.clear()
            await self._written.wait()

    async def quiet(self) -> None:
        """Wait until nothing is pending."""
        while self._pending or self._writing:
            self._written.clear()
            await self._written.wait()

    def leases(self) -> list[Lease]:
        """Return the leases of all that is not written yet."""
        batches = (*self._writing, self._pending)
        return [lease for batch in batches for lease in batch.leases()]

    async def run(self) -> None:
        """Flush for ever, on each connection one batch at a time."""
        async with asyncio.TaskGroup() as group:
            for line in self._lines:
                group.create_task(self._flush(line))

    async def _flush(self, line: Line) -> None:
        while True:
            if not self._pending:
                some = asyncio.Event()
                self._asleep.append(some)
                await some.wait()
            await self.run_once(line)

    async def run_once(self, line: Line) -> None:
        """Flush once what is pending."""
        batch = self._take()
        self._writing.append(batch)
        await self._write(line, batch)
        self._writing.remove(batch)
        self._written.set()

    def _take(self) -> Batch:
        """Take what fits into one flush.

        All checkpoints come along: one may belong to a run that ends in this very flush.
        """
        pending = self._pending
        runs, size = 0, 0
        for run in pending.ended[:MAX_RUNS]:
            size += run.size
            runs += 1
            if size >= MAX_SIZE:
                break
        self._pending = Batch(pending.ended[runs:])
        return Batch(pending.ended[:runs], pending.parked, pending.notes)

    async def _write(self, line: Line, batch: Batch) -> None:
        """Store a batch; when it is refused, store its halves, down to the row that is at fault."""
        try:
            lost = await self._store_surely(line, batch)
        except (psycopg.Error, TypeError, ValueError) as error:
            items = batch.items()
            if len(items) == 1:
                await self._replace(line, items[0], error)
                return
            middle = len(items) // 2
            await self._write(line, Batch.of(items[:middle]))
            await self._write(line, Batch.of(items[middle:]))
        else:
            self._answer(batch, lost)

    async def _store_surely(self, line: Line, batch: Batch) -> set[UUID]:
        """Store a batch however often the connection breaks; return the runs that we had lost."""
        failures = 0
        while True:
            try:
                tx = await line.open()
                if failures:
                    batch = await self._reconcile(tx, batch)
                return await self._store(tx, batch)
            except psycopg.Error as error:
                if not is_passing(error):
                    raise
                failures += 1
                log.warning("a flush failed and is tried again", error=str(error))
                await asyncio.sleep(pause(failures))

    async def _store(self, tx: Tx, batch: Batch) -> set[UUID]:
        if batch.kinds() <= 1:
            return await self._store_in(tx, batch)
        async with tx.transaction():
            return await self._store_in(tx, batch)

    async def _store_in(self, tx: Tx, batch: Batch) -> set[UUID]:
        """Checkpoints first: a run that ends in this batch may still have one."""
        notes = [note.checkpoint for note in batch.notes]
        lost = await queue.checkpoint(tx, notes, worker_id=self._worker_id)
        lost |= await queue.park(tx, batch.parked, worker_id=self._worker_id)
        return lost | await queue.settle(tx, batch.ended, worker_id=self._worker_id)

    async def _reconcile(self, tx: Tx, batch: Batch) -> Batch:
        """Return what of a batch is not stored, after a commit whose answer was lost.

        A run that was parked is not ours any more and changes nothing when it is parked again.
        """
        leases = [run.lease for run in batch.ended]
        stored = await queue.settled(tx, leases, worker_id=self._worker_id)
        noted = await queue.checkpoints(tx, [note.checkpoint.lease.id for note in batch.notes])
        return Batch(
            [run for run in batch.ended if run.lease.id not in stored],
            batch.parked,
            [n for n in batch.notes if not _is_noted(n, noted[n.checkpoint.lease.id])],
        )

    def _answer(self, batch: Batch, lost: set[UUID]) -> None:
        for note in batch.notes:
            _answer_note(note, ours=note.checkpoint.lease.id not in lost)
        for run_id in lost:
            emit("lease.lost", run_id=run_id)
            log.warning("a result came too late", run_id=str(run_id))
        self.settled()
        emit("runs.settled", ended=len(batch.ended), parked=len(batch.parked))

    async def _replace(self, line: Line, item: Item, error: Exception) -> None:
        """Record as a failure what can not be recorded as it is."""
        text = f"the result can not be stored: {str(error)[:MAX_MESSAGE]}"
        if isinstance(item, Note):
            if not item.written.done():
                item.written.set_exception(NotStorable(text))
            return
        log.error("a result was refused", run_id=str(item.lease.id), error=text)
        failure = refused(item, text, at=self._clock.now())
        self._answer(Batch([failure]), await self._store_surely(line, Batch([failure])))


def refused(item: Ended | Parked, text: str, *, at: datetime) -> Ended:
    """Return the failure that stands for a result that the database does not take."""
    return Ended(
        lease=item.lease,
        status="failed",
        started_at=item.started_at if isinstance(item, Ended) else at.timestamp(),
        finished_at=at.timestamp(),
        error=encode({"code": NotStorable.code, "message": text}),
        announce=item.announce,
        earlier=facts(item.lease, (), announce=item.announce),
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
