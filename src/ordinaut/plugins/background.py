"""Background tasks of extensions: kept running, with backoff, and seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from ordinaut import telemetry
from ordinaut.errors import ExtensionError
from ordinaut.model import Json

MAX_TASKS = 32  # of one extension
FIRST_BACKOFF = 0.5  # seconds; doubles up to MAX_BACKOFF
MAX_BACKOFF = 60.0
HEALTHY_SECONDS = 60.0  # a run this long starts the backoff over

log = telemetry.logger(__name__)


@dataclass(slots=True)
class BackgroundTask:
    """One task and how it fares."""

    name: str
    fn: Callable[[], Awaitable[None]]
    restart: bool
    state: Literal["waiting", "running", "backing_off", "finished", "failed"] = "waiting"
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

    def __init__(self, extension_id: str) -> None:
        self._id = extension_id
        self._tasks: dict[str, BackgroundTask] = {}
        self._running: list[asyncio.Task[None]] | None = None

    @property
    def tasks(self) -> tuple[BackgroundTask, ...]:
        """All tasks, for ``GET /extensions``."""
        return tuple(self._tasks.values())

    def run(self, name: str, fn: Callable[[], Awaitable[None]], *, restart: bool = True) -> None:
        if name in self._tasks:
            raise ExtensionError(f"background task {name!r} is there already")
        if len(self._tasks) >= MAX_TASKS:
            raise ExtensionError(f"an extension may have {MAX_TASKS} background tasks")
        task = self._tasks[name] = BackgroundTask(name, fn, restart)
        if self._running is not None:
            self._running.append(self._spawn(task))

    async def __aenter__(self) -> Supervisor:
        self._running = [self._spawn(task) for task in self._tasks.values()]
        return self

    async def __aexit__(self, *_: object) -> None:
        running, self._running = self._running or [], None
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _spawn(self, task: BackgroundTask) -> asyncio.Task[None]:
        return asyncio.create_task(self._supervise(task), name=f"ext:{self._id}:{task.name}")

    async def _supervise(self, task: BackgroundTask) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF
        while True:
            began = loop.time()
            await self._run_once(task)
            if not task.restart:
                return
            if loop.time() - began >= HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF
            task.state = "backing_off"
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF)
            task.restarts += 1

    async def _run_once(self, task: BackgroundTask) -> None:
        task.state = "running"
        try:
            await task.fn()
        except (Exception, SystemExit) as error:
            task.state, task.last_error = "failed", f"{type(error).__name__}: {error}"
            log.exception("extension.background_failed", extension=self._id, task=task.name)
        else:
            task.state = "finished"
