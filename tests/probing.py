"""What the tests of condition tasks share: tasks with a probe, and probers without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ordinaut.clock import TravelClock
from ordinaut.engine.registry import ToolRegistry
from ordinaut.model import Json
from ordinaut.store import probes, schedules, secrets
from ordinaut.store.database import Database
from ordinaut.store.probes import State, Watch
from ordinaut.workers.line import Line
from ordinaut.workers.prober import Prober
from ordinaut.workers.vault import Vault
from queueing import NOW, make_task, rows
from working import settings

EVERY = 10.0
PATIENCE = timedelta(seconds=60)
LOGGED = [{"id": "only", "uses": "core.log", "with": {"message": "${to_string(probe.level)}"}}]


class Gauge:
    """A tool whose answer a test changes: a value, or an exception that it raises."""

    def __init__(self, level: Json = 0) -> None:
        self.level = level
        self.calls = 0
        self.keys: list[str] = []
        self.entered = asyncio.Event()
        self.blocked: asyncio.Event | None = None

    def registry(self, *, effect: Any = "idempotent") -> ToolRegistry:
        made = ToolRegistry()
        made.register("test.gauge", self._read, effect=effect)
        made.register("core.log", _log)
        return made

    async def _read(self, context: Any) -> Json:
        self.calls += 1
        self.keys.append(context.idempotency_key)
        self.entered.set()
        if self.blocked is not None:
            await self.blocked.wait()
        if isinstance(self.level, Exception):
            raise self.level
        return {"level": self.level}


async def _log(message: str) -> Json:
    return {"message": message}


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


async def condition(
    db: Database, expr: str = "level > `9`", *, columns: Json = None, **probe: Json
) -> UUID:
    """Store a condition task as the API does, with its first poll due at ``NOW``."""
    given = {"uses": "test.gauge", "every": EVERY, **probe}
    task_id = await make_task(
        db,
        payload={"probe": given, "pipeline": LOGGED},
        schedule_kind="condition",
        schedule_expr=expr,
        **(columns or {}),
    )
    async with db.transaction() as tx:
        await schedules.set_next(tx, {task_id: None}, now=NOW)
        await probes.watch(tx, {task_id: Watch(given["every"], PATIENCE, NOW)})
    return task_id


@asynccontextmanager
async def prober(
    database_url: str, registry: ToolRegistry, *, worker_id: UUID | None = None
) -> AsyncIterator[Prober]:
    """Make a prober that polls when a test says so."""
    line, vault_line = Line(database_url, name="prober"), Line(database_url, name="vault")
    made = Prober(
        line,
        worker_id=worker_id or UUID(int=1),
        registry=registry,
        vault=Vault(vault_line, secrets.keyring(settings(database_url))),
        clock=TravelClock(NOW),
        places=10,
        grace=0.2,
    )
    try:
        yield made
    finally:
        await line.close()
        await vault_line.close()


async def poll(one: Prober, seconds: float = 0) -> int:
    """Do the polls that are due at an instant; return how many those were."""
    begun = await one.run_once(now=later(seconds))
    await asyncio.gather(*begun)
    return len(begun)


async def state(db: Database, task_id: UUID) -> State:
    async with db.connection() as tx:
        return (await probes.states(tx, [task_id]))[task_id]


async def fired(db: Database, task_id: UUID) -> list[Json]:
    """Return the results that let a task fire, in their order."""
    found = await rows(
        db,
        "SELECT payload #> '{probe,level}' FROM due_work"
        " WHERE task_id = %s AND trigger = 'condition' ORDER BY id",
        task_id,
    )
    return [level for (level,) in found]


async def verdicts(db: Database, task_id: UUID) -> list[tuple[str, str]]:
    return await rows(
        db,
        "SELECT verdict, reason FROM occurrence WHERE task_id = %s ORDER BY scheduled_for",
        task_id,
    )


async def told(db: Database, task_id: UUID) -> list[str]:
    """Return the topics of what was said about a task."""
    found = await rows(db, "SELECT topic FROM event WHERE task_id = %s ORDER BY seq", task_id)
    return [topic for (topic,) in found]
