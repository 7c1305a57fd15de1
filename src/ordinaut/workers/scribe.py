"""Writes down what tools say while they run: their lines, and how far they have come.

One flush is under way at any moment, and what is said meanwhile is in the next. How far a run
has come is written at most twice a second, and before the run ends. Nothing here decides
anything: a line that can not be stored is lost, with a word in the worker's own log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

import psycopg

from ordinaut.engine.tool import LogEntry, ProgressReport
from ordinaut.model import Json, Lease
from ordinaut.store import runlog
from ordinaut.store.runlog import Progress
from ordinaut.telemetry import logger
from ordinaut.workers.line import Line, is_passing, pause

MAX_LINES = 1_000  # of one attempt
MAX_SIZE = 256 * 1024  # characters of one attempt
MAX_PENDING = 50_000  # lines of all runs while the database is away
EVERY = 0.5  # seconds between two words on how far runs have come
MAX_INT = 2**63

log = logger(__name__)


class Scribe:
    """Owns the connection on which lines are written; it is opened when there is a first one."""

    def __init__(self, line: Line, *, worker_id: UUID) -> None:
        self._line = line
        self._worker_id = worker_id
        self._lines: list[runlog.Line] = []
        self._progress: dict[UUID, Progress] = {}
        self._readers: list[asyncio.Future[None]] = []
        self._some = asyncio.Event()
        self._told_at = 0.0

    def write(self, line: runlog.Line) -> None:
        """Keep a line with the next flush."""
        if len(self._lines) < MAX_PENDING:
            self._lines.append(line)
            self._some.set()

    def tell(self, progress: Progress) -> None:
        """Keep how far a run has come; only the last word counts."""
        self._progress[progress.lease.id] = progress
        self._some.set()

    def written(self) -> asyncio.Future[None]:
        """Return what is done when everything that was said so far is written."""
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        self._some.set()
        return reader

    async def run(self) -> None:
        """Flush for ever."""
        while True:
            await self._some.wait()
            self._some.clear()
            await self.run_once()

    async def run_once(self) -> None:
        """Flush once what is pending."""
        readers, self._readers = self._readers, []
        lines, self._lines = self._lines, []
        progress = self._due(hurry=bool(readers))
        if lines or progress:
            await self._write_surely(lines, progress)
        for reader in readers:
            if not reader.done():
                reader.set_result(None)

    def _due(self, *, hurry: bool) -> list[Progress]:
        """Take the words on progress when it is time for them, else come again then."""
        if not self._progress:
            return []
        early = self._told_at + EVERY - time.monotonic()
        if early > 0 and not hurry:
            asyncio.get_running_loop().call_later(early, self._some.set)
            return []
        self._told_at = time.monotonic()
        progress, self._progress = list(self._progress.values()), {}
        return progress

    async def _write_surely(
        self, lines: Sequence[runlog.Line], progress: Sequence[Progress]
    ) -> None:
        failures = 0
        while True:
            try:
                await self._write(lines, progress)
            except psycopg.Error as error:
                if not is_passing(error):
                    log.error("lines of runs were refused", lines=len(lines), error=str(error))
                    return
                failures += 1
                log.warning("lines of runs could not be written yet", error=str(error))
                await asyncio.sleep(pause(failures))
            else:
                return

    async def _write(self, lines: Sequence[runlog.Line], progress: Sequence[Progress]) -> None:
        tx = await self._line.open()
        async with tx.transaction():
            if lines:
                await runlog.write(tx, lines)
            if progress:
                await runlog.tell(tx, progress, worker_id=self._worker_id)


class Pen:
    """What one attempt says, within its bounds."""

    __slots__ = ("_lease", "_number", "_scribe", "_size")

    def __init__(self, scribe: Scribe, lease: Lease) -> None:
        self._scribe = scribe
        self._lease = lease
        self._number = 0
        self._size = 0

    def write(self, entry: LogEntry) -> None:
        """Keep a line; of the first that is too much only this is said."""
        if self._number > MAX_LINES or self._size > MAX_SIZE:
            return
        self._number += 1
        fields = {key: _storable(value) for key, value in entry.fields.items()}
        self._size += len(entry.message) + sum(len(k) + len(str(v)) for k, v in fields.items())
        level, message = str(entry.level), entry.message
        if self._number > MAX_LINES or self._size > MAX_SIZE:
            level, message, fields = "warning", "the log is full: what follows is left out", {}
        self._scribe.write(
            runlog.Line(
                self._lease.id,
                runlog.place(self._lease, self._number),
                entry.at,
                level,
                entry.step_id,
                entry.index,
                message,
                fields,
            )
        )

    def tell(self, report: ProgressReport) -> None:
        """Keep how far the step has come."""
        shown: dict[str, Json] = {
            "step_id": report.step_id,
            "item": report.index,
            "fraction": report.fraction,
            "message": report.message,
            "at": report.at.isoformat(),
        }
        self._scribe.tell(Progress(self._lease, shown))

    async def lift(self) -> None:
        """Wait until all that was said is written, so that it is there when the run ends."""
        await self._scribe.written()


def _storable(value: Json) -> Json:
    """Return a field as JSON can hold it: no number of more than 64 bits."""
    if isinstance(value, int) and not -MAX_INT <= value < MAX_INT:
        return str(value)
    return value
