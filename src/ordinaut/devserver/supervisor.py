"""Keeps the processes of the product running: starts them, starts them again, stops them.

Every process has a session of its own, so that Ctrl-C in the terminal reaches the supervisor
alone, which then stops them in order. Their output goes to one log file each and, with the name
in front, to the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ordinaut.clock import Clock
from ordinaut.devserver import process
from ordinaut.devserver.server import EmbeddedServer
from ordinaut.errors import Unavailable

FIRST_DELAY = 0.5  # seconds before a process that ended is started again
LONGEST_DELAY = 15.0  # seconds; the delay doubles while it keeps ending early
HEALTHY_AFTER = 30.0  # seconds of life after which an end counts as the first one
WATCH_EVERY = 0.5  # seconds between two looks at the embedded servers
LOG_BYTES = 10_000_000  # of one log file, before it becomes the one with .1
CHUNK = 65_536  # bytes

Say = Callable[[str], None]


class Supervised:
    """A process that is started again whenever it ends, until it is told to stop."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        clock: Clock,
        say: Say,
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.log = log
        self.ends = 0  # how often it ended without being told to
        self._argv = argv
        self._env = env
        self._clock = clock
        self._say = say
        self._changed = changed
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process, if it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Run the process, again and again, until :meth:`stop`."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, *, patience: float) -> None:
        """Ask the process to end, and kill it after ``patience`` seconds."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if self._task is None:
            return
        try:
            await asyncio.wait_for(asyncio.shield(self._task), patience)
        except TimeoutError:
            self._say(f"{self.name} does not stop within {patience:g} s and is killed")
            self._signal(signal.SIGKILL)
            await self._task

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            started = self._clock.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                break
            self.ends += 1
            if self._clock.monotonic() - started > HEALTHY_AFTER:
                delay = FIRST_DELAY
            self._say(f"{self.name} ended ({_reason(code)}); it starts again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(delay * 2, LONGEST_DELAY)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _run_once(self) -> int:
        child = await asyncio.create_subprocess_exec(
            *self._argv,
            env=self._env,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        process.guard(child.pid, stop_signal=signal.SIGTERM)
        self._process = child
        self._changed()
        if self._stopping.is_set():  # told to stop between two lives
            self._signal(signal.SIGTERM)
        assert child.stdout is not None  # PIPE
        await self._copy(child.stdout)
        code = await child.wait()
        process.release(child.pid)
        self._process = None
        self._changed()
        return code

    async def _copy(self, output: asyncio.StreamReader) -> None:
        handler = RotatingFileHandler(self.log, maxBytes=LOG_BYTES, backupCount=1)
        with contextlib.closing(handler):
            rest = b""
            while chunk := await output.read(CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._write(handler, line)
            if rest:
                self._write(handler, rest)

    def _write(self, handler: logging.Handler, line: bytes) -> None:
        text = line.decode(errors="replace")
        handler.emit(logging.makeLogRecord({"msg": text}))
        self._say(f"{self.name:9} | {text}")


@asynccontextmanager
async def watching(
    server: EmbeddedServer, *, say: Say, changed: Callable[[], None]
) -> AsyncIterator[None]:
    """Start an embedded server again when it dies, until the block ends."""
    task = asyncio.create_task(_watch(server, say=say, changed=changed))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch(server: EmbeddedServer, *, say: Say, changed: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(WATCH_EVERY)
        if server.pid is None:
            say(f"{server.program} ended; it starts again")
            try:
                await asyncio.to_thread(server.start)
            except Unavailable as error:
                say(error.message)
            changed()


def _reason(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that mean stop; under nohup the end of the terminal does not."""
    hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hung_up else []))
