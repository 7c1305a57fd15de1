"""The API, a scheduler and two workers behind PgBouncer in transaction mode, as in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
import redis.asyncio

from calling import TASK, act, create, make_agent, served
from ordinaut.bus import EVENTS
from ordinaut.cli.examination import examine
from ordinaut.config import Settings
from ordinaut.scheduler import janitor
from ordinaut.store.database import Database
from pooling import PgBouncer
from queueing import enqueue, make_task, rows, work
from working import process, settings, until, until_status

NOWHERE = "postgresql://127.0.0.1:1/nowhere"
NAP = 0.5  # seconds
WITHIN = 60.0  # seconds; processes start slowly on a busy machine


@dataclass(frozen=True)
class System:
    """Everything that runs, and the ways to it."""

    settings: Settings
    db: Database  # past the pooler
    client: httpx2.AsyncClient
    logs: Path

    async def ended(self, run_id: str, *, status: str = "succeeded") -> dict[str, Any]:
        """Wait until a run has ended like this, and return it."""
        await until_status(self.db, UUID(run_id), status)
        answer = await self.client.get(f"/runs/{run_id}")
        run: dict[str, Any] = answer.json()
        return run


@pytest.fixture(scope="module")
async def system(
    postgres_server: Any,
    pooler: PgBouncer,
    template_database: str,
    _admin: Any,
    valkey_server: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[System]:
    _admin.execute(f"CREATE DATABASE pooled TEMPLATE {template_database}")
    direct, logs = postgres_server.url_of("pooled"), tmp_path_factory.mktemp("logs")
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    ways = {"database_direct_url": direct, "redis_url": valkey_server.url}
    made = settings(pooler.url_of(direct), **ways)
    with ExitStack() as stack:
        for name, command in (("first", "worker"), ("second", "worker"), ("timer", "scheduler")):
            log = logs / f"{name}.log"
            stack.enter_context(process(made.database_url, log, command=command, **ways))
        async with Database(direct) as db:
            _, key = await make_agent(db, made, "admin")
            async with served(made, key) as server:
                headers = {"Authorization": f"Bearer {key}"}
                async with httpx2.AsyncClient(base_url=server.url, headers=headers) as client:
                    yield System(made, db, client, logs)
    _admin.execute("DROP DATABASE pooled WITH (FORCE)")


async def run_now(system: System, task: dict[str, Any]) -> str:
    return str((await act(system.client, f"/tasks/{task['id']}/run_now", 202))["id"])


async def test_a_scheduled_run_goes_from_the_api_to_the_stream_of_events(system: System) -> None:
    assert system.settings.pooled
    task = await create(system.client, schedule_kind="interval", schedule_expr="PT1S")

    async def twice() -> bool:
        query = "SELECT count(*) FROM task_run WHERE task_id = %s AND status = 'succeeded'"
        [(count,)] = await rows(system.db, query, task["id"])
        return int(count) >= 2

    await until(twice, what="two runs by the schedule", within=WITHIN)
    await act(system.client, f"/tasks/{task['id']}/pause")
    [run_id] = await rows(
        system.db, "SELECT id FROM task_run WHERE task_id = %s LIMIT 1", task["id"]
    )
    wanted = ["run.queued", "run.started", "step.succeeded", "run.succeeded"]
    async with redis.asyncio.Redis.from_url(system.settings.redis_url) as client:

        async def told() -> bool:
            found = [fields for _, fields in await client.xrange(EVENTS)]
            of_run = [
                f[b"type"].decode() for f in found if f.get(b"runid") == str(run_id[0]).encode()
            ]
            return of_run == wanted

        await until(told, what=f"the events of the run: {wanted}", within=WITHIN)


async def test_workers_hear_past_the_pooler_that_there_is_work(system: System) -> None:
    task = await create(system.client, schedule_kind="event", schedule_expr="never.said")
    late = []
    for _ in range(8):
        run = await system.ended(await run_now(system, task))
        started, due = (datetime.fromisoformat(run[at]) for at in ("started_at", "run_at"))
        late.append((started - due).total_seconds())
    # Those that only look do so once a second, and the last look was at the end of the run before.
    assert min(late) < 0.25, late


async def test_a_cancel_reaches_the_run_of_a_worker(system: System) -> None:
    sleep = {"pipeline": [{"uses": "core.sleep", "with": {"seconds": 600}}]}
    task = await create(
        system.client, schedule_kind="event", schedule_expr="never.said", payload=sleep
    )
    run_id = await run_now(system, task)
    await until_status(system.db, UUID(run_id), "leased")
    await act(system.client, f"/runs/{run_id}/cancel", 202)
    assert (await system.ended(run_id, status="canceled"))["error"]["code"] == "canceled"


async def test_two_workers_keep_to_a_concurrency_key(system: System) -> None:
    nap = {"pipeline": [{"uses": "core.sleep", "with": {"seconds": NAP}}]}
    task = await create(
        system.client, schedule_kind="event", schedule_expr="never.said", payload=nap,
        concurrency_key="printer", max_concurrency=1,
    )  # fmt: skip
    ids = await asyncio.gather(*(run_now(system, task) for _ in range(6)))
    for run_id in ids:
        await system.ended(run_id)
    spans = await rows(
        system.db,
        "SELECT started_at, finished_at FROM task_run WHERE task_id = %s ORDER BY 1",
        task["id"],
    )
    assert len(spans) == 6
    # The workers' clocks may differ a little; two at a time would begin together.
    slack = timedelta(seconds=NAP / 2)
    assert all(earlier[1] - slack < later[0] for earlier, later in pairwise(spans)), spans


async def test_one_key_of_idempotency_makes_one_task(system: System) -> None:
    headers = {"Idempotency-Key": "once"}
    posts = [system.client.post("/tasks", json=TASK, headers=headers) for _ in range(8)]
    answers = await asyncio.gather(*posts)
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    assert {answer.status_code for answer in answers} <= {201, 409}


async def test_the_scheduler_keeps_house(system: System) -> None:
    async def keeps() -> bool:
        query = "SELECT (SELECT count(*) FROM apscheduler_jobs), count(holder) FROM leader"
        return await rows(system.db, query) == [(len(janitor.JOBS), 2)]

    await until(keeps, what="the leader has its jobs in PostgreSQL", within=WITHIN)


async def test_no_process_missed_what_a_session_keeps(system: System) -> None:
    for log in system.logs.iterdir():
        text = log.read_text()
        assert "started" in text
        for complaint in ("prepared statement", "not listening", '"level": "error"', "Traceback"):
            assert complaint not in text, f"{log.name}: {text}"


async def test_who_can_not_listen_looks_by_itself(
    pooler: PgBouncer, db: Database, database_url: str, tmp_path: Path
) -> None:
    item = work(await make_task(db))
    with process(
        pooler.url_of(database_url), tmp_path / "log", database_direct_url=NOWHERE
    ) as deaf:

        async def deafened() -> bool:
            return "not listening" in deaf.log.read_text()

        await until(deafened, what="it does not hear", within=WITHIN)
        await enqueue(db, item)
        await until_status(db, item.id, "succeeded")


def test_the_doctor_sees_a_pooler_that_nothing_leads_past(
    pooler: PgBouncer, database_url: str, redis_url: str
) -> None:
    through = pooler.url_of(database_url)

    def said_of(direct_url: str | None) -> bool:
        [found] = [
            finding
            for finding in examine(through, redis_url, direct_url=direct_url)
            if finding.subject == "pooler"
        ]
        return found.ok

    assert said_of(database_url)
    assert not said_of(None)
    assert not said_of(through)
    assert "pooler" not in {finding.subject for finding in examine(database_url, redis_url)}
