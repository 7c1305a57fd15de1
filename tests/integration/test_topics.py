"""The catalogue of events: what the product says fits the schemas that it gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx2
import jsonschema_rs
import pytest

from calling import act, client_to, make_agent, settings_of, started
from ordinaut.clock import SystemClock
from ordinaut.config import Settings
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.tool import ToolContext
from ordinaut.model import Json
from ordinaut.scheduler import janitor
from ordinaut.scheduler.janitor import HOLDING, Holding
from ordinaut.scheduler.triggers import Triggers
from ordinaut.store import leaders, queue, topics
from ordinaut.store.database import Database
from queueing import WORKER, checkpoint, enqueue, later, lease, make_task, rows, work
from ticking import add_task, after, finish_runs, tick_until
from working import until_status, worker

# Made, and held against their schemas, by the tests of webhooks and conditions.
ELSEWHERE = {"webhook.disabled", "task.probe_failed", "task.probe_recovered"}
APPROVAL = {"pipeline": [{"id": "ask", "wait_for": {"approval": "go on?"}}]}
TASK = {"schedule_kind": "cron", "schedule_expr": "0 9 * * *", "title": "a task"}
WAITING = {**TASK, "payload": {"pipeline": [{"uses": "core.log", "with": {"message": "x"}}]}}


async def bad() -> None:
    raise ValueError("bad")


async def telling(context: ToolContext) -> str:
    context.progress(0.5, "half")
    return "told"


@pytest.fixture
def registry() -> ToolRegistry:
    made = ToolRegistry()
    made.register("test.bad", bad)
    made.register("test.telling", telling)
    return made


@asynccontextmanager
async def api(db: Database, settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    _, key = await make_agent(db, settings, "admin")
    async with started(settings, SystemClock()) as app, client_to(app, key) as client:
        yield client


async def of_tasks(client: httpx2.AsyncClient) -> None:
    """Do everything to tasks that a caller can."""
    made = (await client.post("/tasks", json=WAITING)).json()
    task = f"/tasks/{made['id']}"
    await client.patch(task, json={"title": "another"})
    await act(client, f"{task}/pause")
    await act(client, f"{task}/resume")
    await act(client, f"{task}/run_now", 202)
    await act(client, f"{task}/cancel")
    await client.delete(task)


async def of_schedules(db: Database) -> None:
    """Let schedules end, skip, break and drift."""
    await add_task(db, "once", after(minutes=1).isoformat())
    await add_task(db, "interval", "PT1M", overlap="skip")
    await add_task(db, "cron", "0 12 * * *", timezone="Europe/Chisinau")
    await tick_until(db, after(minutes=2))
    await tick_until(db, after(minutes=3))
    await rows(db, "UPDATE schedule SET tzdata = '2020.1' RETURNING 1")
    await rows(db, "UPDATE schedule SET next_run_at = %s WHERE next_run_at > %s RETURNING 1",
               after(minutes=9), after(hours=1))  # fmt: skip
    await lead(db)
    await janitor.recompute_schedules()
    await finish_runs(db)


async def lead(db: Database) -> None:
    async with db.connection() as tx:
        holder = UUID(int=9)
        epoch = await leaders.seize(tx, "housekeeping", holder=holder, lease=later(60) - later(0))
    assert epoch is not None
    settings = Settings(database_url="x", redis_url="redis://none.invalid", secret="s" * 40)
    HOLDING.set(Holding(db, settings, SystemClock(), epoch))


async def of_listeners(db: Database) -> None:
    """Skip an event task whose run goes on."""
    task = await make_task(db, schedule_expr="test.said", overlap="skip")
    await rows(db, "INSERT INTO schedule (task_id, decided_until)"
                   " VALUES (%s, '2000-01-01') RETURNING 1", task)  # fmt: skip
    await enqueue(db, work(task))
    await rows(db, "INSERT INTO event (topic) VALUES ('test.said') RETURNING 1")
    while await Triggers(db).run_once():
        pass
    await finish_runs(db)


def steps(*given: Json) -> Json:
    return {"pipeline": list(given)}


async def of_runs(
    db: Database, url: str, registry: ToolRegistry, client: httpx2.AsyncClient
) -> None:
    """Let runs succeed, fail, wait for people and skip steps."""
    plans = [
        steps({"uses": "test.telling"}, {"uses": "test.telling", "if": "`false`"}),
        steps({"uses": "test.telling", "foreach": [1, 2]}),
        steps({"uses": "test.bad", "max_retries": 1, "backoff": {"base_seconds": 0.01}}),
    ]
    found = [work(await make_task(db, payload=plan)) for plan in plans]
    asking = [work(await make_task(db, payload=APPROVAL)) for _ in range(2)]
    await enqueue(db, *found, *asking)
    async with worker(url, registry):
        for item, verb in zip(asking, ("approve", "reject"), strict=True):
            await until_status(db, item.id, "waiting")
            await act(client, f"/runs/{item.id}/{verb}", note="because")
        await until_retried(db)
        for item in (*found, *asking):
            await until_status(db, item.id, "succeeded", "failed")


async def until_retried(db: Database) -> None:
    """Let retries come at once: nobody ticks here."""
    async with asyncio.timeout(20):
        while not await rows(db, "SELECT FROM fact WHERE topic = 'run.failed'"):
            async with db.connection() as tx:
                await queue.promote(tx, limit=100, now=later(9_999))
                await queue.hint(tx)
            await asyncio.sleep(0.05)


async def of_crashes(db: Database) -> None:
    """Let workers die until their runs are buried, and one be canceled."""
    await enqueue(db, work(await make_task(db)))
    for crash in range(1, queue.MAX_CRASHES + 1):
        [held] = await lease(db, now=later(100 * crash))
        async with db.connection() as tx:
            await queue.checkpoint(tx, [checkpoint(held)], worker_id=WORKER)
            await queue.expire(tx, limit=10, now=later(100 * crash + 31))
    item = work(await make_task(db))
    await enqueue(db, item)
    async with db.transaction() as tx:
        await queue.cancel(tx, run_ids=[item.id], reason="a test")


async def of_workers(db: Database) -> None:
    """Let a process end without a word."""
    await rows(db, "INSERT INTO worker (id, host, pid, version, heartbeat_at)"
                   " VALUES (%s, 'gone', 7, '1', now() - interval '61 s') RETURNING 1",
               UUID(int=8))  # fmt: skip
    await janitor.find_lost_workers()


async def test_every_topic_is_spoken_of_and_fits_its_schema(
    db: Database, database_url: str, registry: ToolRegistry
) -> None:
    settings = settings_of(database_url)
    async with api(db, settings) as client:
        await of_tasks(client)
        await of_schedules(db)
        await of_listeners(db)
        await of_runs(db, database_url, registry, client)
        await of_crashes(db)
        await of_workers(db)

    wrong: list[Any] = []
    known = topics.catalogue()
    seen = set()
    for topic, data in await rows(db, "SELECT topic, data FROM fact WHERE topic <> 'test.said'"):
        seen.add(topic)
        checker = jsonschema_rs.validator_for(known[topic].schema, validate_formats=True)
        wrong += [(topic, data, error.message) for error in checker.iter_errors(data)]
    assert wrong == []
    assert seen == known.keys() - ELSEWHERE - {"ext.<id>.*"}


async def test_the_catalogue_is_answered(db: Database, database_url: str) -> None:
    async with api(db, settings_of(database_url)) as client:
        found = (await client.get("/events/catalogue")).json()["items"]

    assert [one["topic"] for one in found] == list(topics.catalogue())
    for one in found:
        assert one.keys() == {"topic", "when", "schema"}
        jsonschema_rs.meta.validate(one["schema"])
