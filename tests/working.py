"""What the tests of the worker share: workers in this process and in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from ordinaut.config import Settings, load_settings, variable
from ordinaut.engine.registry import ToolRegistry
from ordinaut.model import Json
from ordinaut.store.database import Database
from ordinaut.workers.runner import Worker
from queueing import rows, status_of

PATIENCE = 20.0  # seconds before a condition counts as never met
SECRET = "0123456789abcdef0123456789abcdef"


def settings(database_url: str, **changes: Any) -> Settings:
    given = {"DATABASE_URL": database_url, "REDIS_URL": "redis://localhost:1"}
    values = {"secret": SECRET, "worker_concurrency": 10, "drain_seconds": 5.0, **changes}
    return load_settings(given, **values)


async def until(
    condition: Callable[[], Awaitable[bool]], *, what: str, within: float = PATIENCE
) -> None:
    """Wait for something that another process or task does."""
    try:
        async with asyncio.timeout(within):
            while not await condition():  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {within} s: {what}") from None


async def until_status(db: Database, run_id: UUID, *statuses: str) -> None:
    async def there() -> bool:
        return await status_of(db, run_id) in statuses

    await until(there, what=f"run {run_id} is {' or '.join(statuses)}")


async def until_ended(db: Database, count: int, *, within: float = PATIENCE) -> None:
    async def ended() -> bool:
        return await rows(db, "SELECT count(*) FROM task_run") == [(count,)]

    await until(ended, what=f"{count} runs have ended", within=within)


@asynccontextmanager
async def worker(
    database_url: str, registry: ToolRegistry, *, grace: float = 0.3, **changes: Any
) -> AsyncIterator[Worker]:
    """Run a worker in this process; it drains at the end."""
    made = Worker(settings(database_url, **changes), registry=registry, grace=grace)
    stop, hurry = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(made.run(stop=stop, hurry=hurry))
    try:
        yield made
    finally:
        stop.set()
        hurry.set()
        await task


class Process:
    """An ``ordinaut`` server in a process of its own."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.log = log

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, within: float = PATIENCE) -> int:
        return self.popen.wait(within)


@contextmanager
def process(
    database_url: str, log: Path, *arguments: str, command: str = "worker", **changes: Json
) -> Iterator[Process]:
    """Start ``ordinaut worker``, or another; whatever happens, it is gone afterwards."""
    options = {
        "database_url": database_url,
        "redis_url": "redis://localhost:1",
        "secret": SECRET,
        "worker_concurrency": 10,
        **changes,
    }
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        **{variable(name): str(value) for name, value in options.items()},
    }
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "ordinaut", command, *arguments],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield Process(popen, log)
    finally:
        popen.kill()
        popen.wait()
