"""Background tasks of extensions: kept running, with backoff, and seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ordinaut import telemetry
from ordinaut.errors import ExtensionError
from ordinaut.model import Json

MAX_TASKS = 32  # of one extension
FIRST_BACKOFF = 0.5  # seconds; doubles up to MAX_BACKOFF
MAX_BACKOFF = 60.0
HEALTHY_SECONDS = 60.0  # a run this long starts the backoff over

RENEW_EVERY = 1.5  # seconds between renewals of a leader's lease, and looks for a free one

TaskState: TypeAlias = Literal[
    "waiting", "running", "standing_by", "backing_off", "finished", "failed"
]

log = telemetry.logger(__name__)


class Leases(Protocol):
    """Who of all processes does what only one may do."""

    async def take(self, name: str) -> bool:
        """Take or keep it; False while another process has it."""

    async def give_back(self, name: str) -> None:
        """Let another process have it at once."""


@dataclass(slots=True)
class BackgroundTask:
    """One task and how it fares."""

    name: str
    fn: Callable[[], Awaitable[None]]
    restart: bool
    one_leader: bool
    state: TaskState = "waiting"
    restarts: int = 0
    last_error: str = ""

    def describe(self) -> dict[str, Json]:
        """Return what ``GET /extensions`` shows of it."""
        return {
            "name": self.name,
            "state": self.state,
            "restarts": self.restarts,
            "last_error": self.last_error,
        }


class Supervisor:
    """``context["background"]``: runs the tasks of one extension while it is entered."""

    def __init__(self, extension_id: str, leases: Leases) -> None:
        self._id = extension_id
        self._leases = leases
        self._tasks: dict[str, BackgroundTask] = {}
        self._running: list[asyncio.Task[None]] | None = None

    @property
    def tasks(self) -> tuple[BackgroundTask, ...]:
        """All tasks, for ``GET /extensions``."""
        return tuple(self._tasks.values())

    def run(
        self,
        name: str,
        fn: Callable[[], Awaitable[None]],
        *,
        restart: bool = True,
        one_leader: bool = False,
    ) -> None:
        if name in self._tasks:
            raise ExtensionError(f"background task {name!r} is there already")
        if len(self._tasks) >= MAX_TASKS:
            raise ExtensionError(f"an extension may have {MAX_TASKS} background tasks")
        task = self._tasks[name] = BackgroundTask(name, fn, restart, one_leader)
        if self._running is not None:
            self._running.append(self._spawn(task))

    async def __aenter__(self) -> Supervisor:
        self._running = [self._spawn(task) for task in self._tasks.values()]
        return self

    async def __aexit__(self, *_: object) -> None:
        running, self._running = self._running or [], None
        await _end(running)

    def _spawn(self, task: BackgroundTask) -> asyncio.Task[None]:
        return asyncio.create_task(self._supervise(task), name=f"ext:{self._id}:{task.name}")

    async def _supervise(self, task: BackgroundTask) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF
        while True:
            began = loop.time()
            await (self._run_as_leader(task) if task.one_leader else self._run_once(task))
            if not task.restart:
                return
            if loop.time() - began >= HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF
            task.state = "backing_off"
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF)
            task.restarts += 1

    async def _run_as_leader(self, task: BackgroundTask) -> None:
        """Wait until no other process runs the task, then run it as long as that holds."""
        while not await self._take(task):
            task.state = "standing_by"
            await asyncio.sleep(RENEW_EVERY)
        running = asyncio.create_task(self._run_once(task))
        try:
            while not running.done():
                await asyncio.wait([running], timeout=RENEW_EVERY)
                if not running.done() and not await self._take(task):
                    log.warning("extension.leadership_lost", extension=self._id, task=task.name)
                    return
        finally:
            await _end([running])
            await self._give_back(task)

    async def _take(self, task: BackgroundTask) -> bool:
        try:
            return await self._leases.take(self._lease(task))
        except Exception:
            # Without an answer nobody knows who leads, so it is not us.
            log.exception("extension.lease_unknown", extension=self._id, task=task.name)
            return False

    async def _give_back(self, task: BackgroundTask) -> None:
        try:
            await self._leases.give_back(self._lease(task))
        except Exception:
            log.exception("extension.lease_unknown", extension=self._id, task=task.name)

    def _lease(self, task: BackgroundTask) -> str:
        return f"ext:{self._id}:{task.name}"

    async def _run_once(self, task: BackgroundTask) -> None:
        task.state = "running"
        try:
            await task.fn()
        except (Exception, SystemExit) as error:
            task.state, task.last_error = "failed", f"{type(error).__name__}: {error}"
            log.exception("extension.background_failed", extension=self._id, task=task.name)
        else:
            task.state = "finished"


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
