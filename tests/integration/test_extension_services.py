"""What the packs of the core do to the store, and what the metrics show of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import Scope

from extending import settings
from ordinaut import telemetry
from ordinaut.clock import SystemClock
from ordinaut.engine import calls
from ordinaut.engine.tool import NotYet, ToolContext, silent
from ordinaut.errors import StepError, ToolError
from ordinaut.model import Json, Lease, uuid7
from ordinaut.plugins.host import ExtensionHost
from ordinaut.plugins.services import derived_id
from ordinaut.scheduler.triggers import Triggers
from ordinaut.store import audit, extensions, schedules
from ordinaut.store.database import Database
from ordinaut.store.triggers import MAX_DEPTH
from queueing import ended, enqueue, lease, make_task, rows, settle, topics, work


async def anyone(scope: Scope, needed: str) -> None:
    return None


@pytest.fixture
async def host(db: Database) -> AsyncIterator[ExtensionHost]:
    async with ExtensionHost(settings(), db=db, authorize=anyone) as running:
        yield running


def call_of(agent: UUID | None = None, run: UUID | None = None) -> ToolContext:
    return ToolContext(
        run_id=run or uuid7(),
        task_id=uuid7(),
        agent_id=agent,
        step_id="step",
        index=None,
        attempt=1,
        clock_now=SystemClock().now,
        sink=silent,
        loop=asyncio.get_running_loop(),
    )


async def call(host: ExtensionHost, name: str, context: ToolContext, **arguments: Json) -> Any:
    return await calls.call(host.tools.get(name), arguments, seconds=20, context=context)


async def task_in(db: Database) -> UUID:
    task = await make_task(db)
    async with db.connection() as tx:
        await tx.execute("INSERT INTO schedule (task_id) VALUES (%s)", (task,))
    return task


async def owner_of(db: Database, task: UUID) -> UUID:
    [(owner,)] = await rows(db, "SELECT created_by FROM task WHERE id = %s", task)
    assert isinstance(owner, UUID)
    return owner


async def test_a_published_event_is_in_the_outbox_with_its_run(
    host: ExtensionHost, db: Database
) -> None:
    context = call_of()
    await call(host, "event.publish", context, topic="order.paid", payload={"n": 1})
    found = await rows(db, "SELECT topic, data, run_id, task_id FROM fact")
    assert found == [("order.paid", {"n": 1}, context.run_id, context.task_id)]


@pytest.mark.parametrize("topic", ["run.succeeded", "task.created", "ext.demo.told", "step"])
async def test_nobody_states_a_fact_of_the_core(
    host: ExtensionHost, db: Database, topic: str
) -> None:
    with pytest.raises(ToolError, match="can not be published") as refused:
        await call(host, "event.publish", call_of(), topic=topic)
    assert not refused.value.retryable
    assert await rows(db, "SELECT 1 FROM fact") == []


async def test_a_task_is_run_once_however_often_the_call_is_repeated(
    host: ExtensionHost, db: Database
) -> None:
    task = await task_in(db)
    context = call_of(await owner_of(db, task))
    first = await call(host, "task.run", context, task_id=str(task), params={"a": 1})
    again = await call(host, "task.run", context, task_id=str(task), params={"a": 1})
    assert first == again == {"run_id": str(derived_id(context))}
    [(run_id, trigger, payload)] = await rows(db, "SELECT id, trigger, payload FROM due_work")
    assert (run_id, trigger) == (derived_id(context), "task")
    assert payload.pop("called_at")
    assert payload == {"params": {"a": 1}, "depth": 1}


async def test_runs_that_start_each_other_come_to_an_end(host: ExtensionHost, db: Database) -> None:
    task = await task_in(db)
    owner = await owner_of(db, task)
    caller = work(task, trigger="event", payload={"event": {"depth": MAX_DEPTH - 2}})
    await enqueue(db, caller)
    first = call_of(owner, caller.id)
    await call(host, "task.run", first, task_id=str(task), params={"a": 1})
    second = call_of(owner, derived_id(first))
    await call(host, "task.run", second, task_id=str(task))
    last = call_of(owner, derived_id(second))

    with pytest.raises(ToolError, match="16 runs that started each other") as refused:
        await call(host, "task.run", last, task_id=str(task))

    assert not refused.value.retryable
    found = dict(
        await rows(db, "SELECT id, payload - 'called_at' FROM due_work WHERE trigger = 'task'")
    )
    assert found == {
        derived_id(first): {"params": {"a": 1}, "depth": MAX_DEPTH - 1},
        derived_id(second): {"depth": MAX_DEPTH},
    }
    async with db.transaction() as tx:
        await schedules.set_next(tx, {task: None})
    await call(host, "event.publish", last, topic="x")
    await Triggers(db).run_once()
    assert await rows(db, "SELECT verdict FROM occurrence") == [("canceled",)]


async def test_a_run_that_ended_is_not_enqueued_again(host: ExtensionHost, db: Database) -> None:
    task = await task_in(db)
    context = call_of(await owner_of(db, task))
    await call(host, "task.run", context, task_id=str(task))
    [held] = await lease(db, now=SystemClock().now())
    await settle(db, ended(held, output={"answer": 42}))
    result = await call(host, "task.run", context, task_id=str(task), wait=True)
    assert result == {
        "run_id": str(held.id),
        "status": "succeeded",
        "output": {"answer": 42},
    }
    assert await topics(db, held.id) == ["run.queued", "run.started", "run.succeeded"]


async def test_a_run_that_takes_long_is_waited_for_without_a_worker(
    host: ExtensionHost, db: Database
) -> None:
    task = await task_in(db)
    context = call_of(await owner_of(db, task))
    await call(host, "task.run", context, task_id=str(task))
    since = SystemClock().now() - timedelta(seconds=40)
    await rows(
        db,
        "UPDATE due_work SET payload = payload || jsonb_build_object('called_at', %s::text) "
        "RETURNING id",
        since.isoformat(),
    )

    with pytest.raises(NotYet, match="goes on") as not_yet:
        await call(host, "task.run", context, task_id=str(task), wait=True)

    assert not_yet.value.since == since
    assert timedelta(seconds=50) <= not_yet.value.until - since < timedelta(seconds=70)
    [held] = await leased(db)
    await settle(db, ended(held, output=1))
    again = await call(host, "task.run", context, task_id=str(task), wait=True)
    assert again["output"] == 1


async def test_waiting_for_a_run_that_fails_fails_for_good(
    host: ExtensionHost, db: Database
) -> None:
    task = await task_in(db)
    context = call_of(await owner_of(db, task))
    waiting = asyncio.create_task(call(host, "task.run", context, task_id=str(task), wait=True))
    [held] = await leased(db)
    await settle(db, ended(held, status="failed", error={"message": "no"}))
    with pytest.raises(ToolError, match="ended as failed") as failed:
        await waiting
    assert not failed.value.retryable
    assert failed.value.details["error"] == {"message": "no"}


async def test_a_task_of_somebody_else_is_not_found_unless_the_agent_may(
    host: ExtensionHost, db: Database
) -> None:
    mine, other = await task_in(db), await task_in(db)
    me = await owner_of(db, mine)
    with pytest.raises(StepError, match="no task"):
        await call(host, "task.run", call_of(me), task_id=str(other))
    async with db.connection() as tx:
        await tx.execute("UPDATE agent SET scopes = '{tasks:run:all}' WHERE id = %s", (me,))
    assert "run_id" in await call(host, "task.run", call_of(me), task_id=str(other))


def test_derived_ids_are_version_7_of_the_callers_day_and_differ_by_step() -> None:
    async def ids() -> list[UUID]:
        run = uuid7()
        one, two = call_of(run=run), call_of(run=run)
        two.step_id = "other"
        return [run, derived_id(one), derived_id(one), derived_id(two)]

    run, first, again, other = asyncio.run(ids())
    assert first == again != other
    assert first.version == 7
    assert first.int >> 80 == run.int >> 80


async def leased(db: Database) -> list[Lease]:
    """Lease what another task is about to enqueue."""
    for _ in range(500):
        if held := await lease(db, now=SystemClock().now()):
            return held
        await asyncio.sleep(0.01)
    pytest.fail("nothing was enqueued")


async def metrics(host: ExtensionHost) -> dict[str, float]:
    app = FastAPI()
    app.mount("/ext", host.gateway)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/ext/observability/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=1.0.0")
    lines = (line.rpartition(" ") for line in answer.text.splitlines() if line[:1] != "#")
    return {name: float(value) for name, _, value in lines}


async def test_the_metrics_show_queue_runs_and_requests(host: ExtensionHost, db: Database) -> None:
    before = await metrics(host)
    assert before['ordinaut_queue_depth{state="ready"}'] == 0
    assert before['ordinaut_runs_total{status="succeeded"}'] == 0
    task = await task_in(db)
    await enqueue(db, work(task), work(task), work(task))
    one, two = await lease(db, limit=2)
    await settle(db, ended(one), ended(two, status="failed"))
    details = {"method": "GET", "route": "/tasks/{id}", "status": 200, "seconds": 0.003}
    telemetry.emit("http.request", **details)
    telemetry.emit("http.request", **{**details, "route": "", "method": "BREW", "status": 404})
    after = await metrics(host)
    assert after['ordinaut_queue_depth{state="ready"}'] == 1
    assert after['ordinaut_queue_oldest_seconds{state="ready"}'] >= 0
    assert after['ordinaut_runs_total{status="succeeded"}'] == 1
    assert after['ordinaut_runs_total{status="failed"}'] == 1
    assert after['ordinaut_run_events_total{event="queued"}'] == 3
    get = 'method="GET",route="/tasks/{id}"'
    assert after[f'ordinaut_http_requests_total{{{get},status="200"}}'] == 1
    assert after[f'ordinaut_http_request_seconds_bucket{{le="0.005",{get}}}']
    assert (
        after['ordinaut_http_requests_total{method="OTHER",route="(unmatched)",status="404"}'] == 1
    )


async def test_each_event_of_a_run_is_counted_once_however_late_it_commits(
    host: ExtensionHost, db: Database
) -> None:
    count = 'ordinaut_run_events_total{event="late"}'
    insert = "INSERT INTO event (topic) VALUES ('run.late')"
    async with db.transaction() as slow:
        await slow.execute(insert)
        async with db.transaction() as fast:
            await fast.execute(insert)
        assert (await metrics(host))[count] == 1
    assert (await metrics(host))[count] == 2
    assert (await metrics(host))[count] == 2


async def test_every_process_follows_what_the_operator_decides(db: Database) -> None:
    api, worker = ExtensionHost(settings(), db=db), ExtensionHost(settings(), db=db)
    await worker.start_tools()
    async with api:
        await decide(db, "python", enabled=False)
        await decide(db, "shell", enabled=True)
        for host in (api, worker):
            await host.refresh()
            assert "python.call" not in host.tools
            assert "shell.run" in host.tools
        await decide(db, "python", enabled=True)
        await worker.refresh()
        assert "python.call" in worker.tools
    await worker.stop()


async def test_what_was_decided_holds_for_the_next_start_and_is_in_the_audit_log(
    db: Database,
) -> None:
    await decide(db, "python", enabled=False)
    async with ExtensionHost(settings(), db=db) as host:
        assert "python.call" not in host.tools
    found = await rows(db, "SELECT actor, action, entity_id, before, after FROM audit_log")
    assert found == [("system", "disable", "python", None, {"enabled": False})]


async def test_what_the_environment_disables_no_decision_enables(db: Database) -> None:
    await decide(db, "python", enabled=True)
    async with ExtensionHost(settings(ext_disabled="python"), db=db) as host:
        assert "python.call" not in host.tools


async def test_a_database_that_is_away_changes_nothing() -> None:
    nowhere = Database("postgresql://127.0.0.1:1/none")
    async with nowhere, ExtensionHost(settings(), db=nowhere) as host:
        assert "core.log" in host.tools


async def decide(db: Database, extension: str, *, enabled: bool) -> None:
    async with db.transaction() as tx:
        await extensions.choose(tx, extension, enabled=enabled, actor=audit.SYSTEM)
