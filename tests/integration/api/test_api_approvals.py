"""Runs that wait for people: over HTTP, with a worker that executes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx2
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from fastapi import FastAPI
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import queueing
from calling import (
    NOW,
    AgentOf,
    act,
    assert_problem,
    client_to,
    make_agent,
    rows,
    settings_of,
    started,
)
from ordinaut.clock import SystemClock, TravelClock
from ordinaut.engine.registry import ToolRegistry
from ordinaut.model import Json, uuid7
from ordinaut.scheduler import janitor
from ordinaut.scheduler.janitor import HOLDING, Holding
from ordinaut.store import leaders, migrate, queue
from ordinaut.store.database import Database
from ordinaut.store.upkeep import ensure_partitions
from running import say, start, until_run
from working import worker

ASK = {"id": "ask", "wait_for": {"approval": {"message": "Pay ${params.n}?"}}}


@pytest.fixture
async def working(app: FastAPI, database_url: str) -> AsyncIterator[None]:
    """A worker with the tools of the API."""
    async with worker(database_url, app.state.services.tools):
        yield


async def told(db: Database, run_id: str) -> list[str]:
    """Return what the outbox says about a run since it waits."""
    found = await rows(db, "SELECT topic FROM fact WHERE run_id = %s ORDER BY seq", run_id)
    topics = [topic for (topic,) in found]
    return topics[topics.index("run.waiting") + 1 :]


async def set_back(db: Database, run_id: str, age: timedelta) -> None:
    """Let so much time have passed for a run that waits."""
    shift = {"age": age, "id": run_id}
    async with db.transaction() as tx:
        await tx.execute(
            "UPDATE due_work SET created_at = created_at - %(age)s,"
            " started_at = started_at - %(age)s, run_at = CASE WHEN run_at > '9000-01-01' THEN"
            " run_at ELSE run_at - %(age)s END WHERE id = %(id)s",
            shift,
        )
        await tx.execute(
            "UPDATE step_run SET started_at = started_at - %(age)s,"
            " finished_at = finished_at - %(age)s WHERE run_id = %(id)s",
            shift,
        )
        await tx.execute(
            "UPDATE step_run SET output = jsonb_set(output, '{wait,until}', to_jsonb(to_char("
            " ((output #>> '{wait,until}')::timestamptz - %(age)s) AT TIME ZONE 'UTC',"
            ' \'YYYY-MM-DD"T"HH24:MI:SS"Z"\')))'
            " WHERE run_id = %(id)s AND output #>> '{wait,until}' IS NOT NULL",
            shift,
        )
        await tx.execute(
            "UPDATE event SET occurred_at = occurred_at - %(age)s WHERE run_id = %(id)s", shift
        )


@pytest.mark.usefixtures("working")
async def test_an_approved_run_goes_on_with_the_approval_as_output(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    run_id = await start(admin, say("a"), ASK, say("b"), output="${steps.ask}")
    waiting = await until_run(admin, run_id, "waiting")
    assert waiting["wait"] == [{"step_id": "ask", "kind": "approval", "message": "Pay 7?"}]
    assert waiting["worker_id"] is None

    run = await act(admin, f"/runs/{run_id}/approve", note="fine")

    assert run["status"] in ("queued", "running")
    assert run["wait"] is None
    ended = await until_run(admin, run_id, "succeeded")
    assert {k: ended["output"][k] for k in ("approved", "by", "note")} == {
        "approved": True, "by": "admin", "note": "fine",
    }  # fmt: skip
    assert ended["attempt"] == 1
    assert [(s["id"], s["status"]) for s in ended["steps"]] == [
        ("a", "succeeded"), ("ask", "succeeded"), ("b", "succeeded"),
    ]  # fmt: skip
    assert await told(db, run_id) == [
        "run.approved", "step.succeeded", "run.queued", "run.started", "step.succeeded",
        "run.succeeded",
    ]  # fmt: skip
    [(action, after)] = await rows(
        db, "SELECT action, after FROM audit_log WHERE entity_id = %s", run_id
    )
    assert (action, after["step_id"], after["note"]) == ("run.approve", "ask", "fine")


@pytest.mark.usefixtures("working")
async def test_a_rejected_run_fails_and_says_who_rejected_it(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    run_id = await start(admin, ASK, say("b"))
    await until_run(admin, run_id, "waiting")

    await act(admin, f"/runs/{run_id}/reject", note="too much")

    ended = await until_run(admin, run_id, "failed")
    assert ended["error"]["code"] == "wait_refused"
    assert "rejected by admin: too much" in ended["error"]["message"]
    assert [s["id"] for s in ended["steps"]] == ["ask"]
    assert await told(db, run_id) == [
        "run.rejected", "run.queued", "run.started", "step.failed", "run.failed",
    ]  # fmt: skip


@pytest.mark.usefixtures("working")
async def test_to_decide_twice_the_same_is_to_decide_once(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    for verb, other, end in (("approve", "reject", "succeeded"), ("reject", "approve", "failed")):
        run_id = await start(admin, ASK)
        await until_run(admin, run_id, "waiting")
        await act(admin, f"/runs/{run_id}/{verb}")
        await act(admin, f"/runs/{run_id}/{verb}")
        await until_run(admin, run_id, end)

        await act(admin, f"/runs/{run_id}/{verb}")
        assert_problem(await admin.post(f"/runs/{run_id}/{other}"), status=409, code="conflict")

        assert (await told(db, run_id)).count("run.queued") == 1
        counted = await rows(db, "SELECT count(*) FROM audit_log WHERE entity_id = %s", run_id)
        assert counted == [(1,)]


@pytest.mark.usefixtures("working")
async def test_where_nothing_waits_nothing_can_be_approved(admin: httpx2.AsyncClient) -> None:
    ended = await start(admin, say("a"))
    await until_run(admin, ended, "succeeded")
    asleep = await start(admin, {"wait_for": "1h"})
    await until_run(admin, asleep, "waiting")

    for run_id in (ended, asleep):
        for verb in ("approve", "reject"):
            problem = assert_problem(await admin.post(f"/runs/{run_id}/{verb}"), status=409)
            assert "nothing of it waits for an approval" in problem["detail"]
    await act(admin, f"/runs/{asleep}/cancel", 202)
    assert_problem(await admin.post(f"/runs/{asleep}/approve"), status=409)
    unknown = "0198c2a0-0000-7000-8000-000000000000"
    assert_problem(await admin.post(f"/runs/{unknown}/approve"), status=404)


@pytest.mark.usefixtures("working")
async def test_an_approval_with_a_scope_is_for_those_who_hold_it(
    agent: AgentOf, admin: httpx2.AsyncClient
) -> None:
    owner = await agent("tasks:write", "tasks:run", "runs:read", "runs:write", name="owner")
    payer = await agent("approve:pay", name="payer")
    stranger = await agent("runs:write", "approve:other")
    ask = {"id": "ask", "uses": "approval.request", "with": {"message": "Pay?", "scope": "pay"}}
    run_id = await start(owner.client, ask, output="${steps.ask.by}")
    await until_run(owner.client, run_id, "waiting")
    address = f"/runs/{run_id}/approve"

    problem = assert_problem(await owner.client.post(address), status=403)
    assert "approve:pay" in problem["detail"]
    assert_problem(await stranger.client.post(address), status=404)
    await act(payer.client, address)
    await until_run(admin, run_id, "succeeded")
    await act(payer.client, address)
    assert (await admin.get(f"/runs/{run_id}")).json()["output"] == "payer"


@pytest.mark.usefixtures("working")
async def test_an_approval_without_a_scope_is_for_those_who_may_write_the_run(
    agent: AgentOf,
) -> None:
    owner = await agent("tasks:write", "tasks:run", "runs:read", "runs:write")
    reader = await agent("runs:read:all")
    stranger = await agent("runs:write")
    helper = await agent("runs:write:all")
    run_id = await start(owner.client, ASK)
    await until_run(owner.client, run_id, "waiting")
    address = f"/runs/{run_id}/approve"

    assert_problem(await reader.client.post(address), status=404)
    assert_problem(await stranger.client.post(address), status=404)
    await act(helper.client, address)


@pytest.mark.usefixtures("working")
async def test_an_approval_that_comes_too_late_is_refused(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    ask = {"id": "ask", "wait_for": {"approval": {"message": "Pay?", "timeout": "30d"}}}
    run_id = await start(admin, ask, say("b"))
    run = await until_run(admin, run_id, "waiting")
    assert datetime.fromisoformat(run["wait"][0]["until"]) == datetime.fromisoformat(run["run_at"])

    await set_back(db, run_id, timedelta(days=31))

    problem = assert_problem(await admin.post(f"/runs/{run_id}/approve"), status=409)
    assert "had to come before" in problem["detail"]
    async with db.connection() as tx:
        assert await queue.promote(tx, limit=10) == 1
    ended = await until_run(admin, run_id, "failed")
    assert ended["error"]["code"] == "wait_refused"

    # Who retries it is asked anew.
    await act(admin, f"/runs/{run_id}/retry", 202)
    await until_run(admin, run_id, "waiting")
    await act(admin, f"/runs/{run_id}/approve")
    await until_run(admin, run_id, "succeeded")


@pytest.mark.usefixtures("working")
async def test_a_rejected_run_that_is_retried_asks_anew(admin: httpx2.AsyncClient) -> None:
    run_id = await start(admin, {**ASK, **say("ask")})
    await until_run(admin, run_id, "waiting")
    await act(admin, f"/runs/{run_id}/reject", step="ask")
    await until_run(admin, run_id, "failed")

    await act(admin, f"/runs/{run_id}/retry", 202)

    await until_run(admin, run_id, "waiting")
    await act(admin, f"/runs/{run_id}/approve")
    assert (await until_run(admin, run_id, "succeeded"))["attempt"] == 1


async def test_what_is_said_to_a_run_is_checked(admin: httpx2.AsyncClient) -> None:
    unknown = "/runs/0198c2a0-0000-7000-8000-000000000000/approve"
    for body in ({"note": 1}, {"note": "x" * 2001}, {"steps": "a"}, {"index": -1}, {"step": ""}):
        assert_problem(await admin.post(unknown, json=body), status=422)
    bad = {"id": "ask", "wait_for": {"approval": {"scope": "Pay ${params.n}"}}}
    answer = await admin.post(
        "/tasks",
        json={"title": "t", "schedule_kind": "cron", "schedule_expr": "0 9 * * *",
              "payload": {"pipeline": [bad]}},
    )  # fmt: skip
    assert_problem(answer, status=422)


async def test_a_run_that_waits_for_a_month_holds_no_worker_and_survives_restarts(
    app: FastAPI, admin: httpx2.AsyncClient, db: Database, database_url: str
) -> None:
    calls: list[int] = []
    registry = ToolRegistry()

    async def count() -> None:
        calls.append(1)

    for name in ("before", "after"):
        registry.register(f"test.{name}", count)
    steps: list[Json] = [{"id": "a", "uses": "test.before"}, ASK, {"id": "b", "uses": "test.after"}]
    payload = {"params": {"n": 7}, "pipeline": steps}
    [(owner,)] = await rows(db, "SELECT id FROM agent WHERE name = 'admin'")
    task_id = await queueing.make_task(db, payload=payload, created_by=owner)
    begun = datetime.now(UTC) - timedelta(days=31)
    run_id = born(begun)
    await ensure_partitions(db, first=begun.date(), days=1)
    await queueing.enqueue(db, queueing.work(task_id, id=run_id))
    async with worker(database_url, registry):
        await until_run(admin, str(run_id), "waiting")
    await set_back(db, str(run_id), timedelta(days=31))

    # The month passes: workers come and go, history is dropped.
    async with worker(database_url, registry) as idle:
        assert (await queueing.lease(db), idle.health()[1]["running"]) == ([], 0)
    async with db.connection() as tx:
        epoch = await leaders.seize(tx, "housekeeping", holder=uuid7(), lease=timedelta(minutes=9))
    assert epoch is not None
    brief = settings_of(db.url).model_copy(update={"retention_days": 7})
    HOLDING.set(Holding(db, brief, SystemClock(), epoch))
    await janitor.drop_history()
    seen = (await admin.get(f"/runs/{run_id}")).json()
    assert (seen["status"], seen["worker_id"]) == ("waiting", None)
    assert [s["id"] for s in seen["steps"]] == ["a", "ask"]

    await act(admin, f"/runs/{run_id}/approve")
    async with worker(database_url, registry):
        await until_run(admin, str(run_id), "succeeded")
    assert len(calls) == 2

    await janitor.drop_history()  # and when it has ended, its day goes as well
    left = await rows(db, "SELECT count(*) FROM step_run WHERE run_id = %s", run_id)
    assert left == [(0,)]


REVISIONS = [
    r.revision for r in ScriptDirectory.from_config(migrate._config(None)).walk_revisions()
]


@pytest.mark.parametrize("revision", [REVISIONS[-1], REVISIONS[1]], ids=["first", "previous"])
async def test_a_run_that_waits_survives_an_upgrade(empty_database_url: str, revision: str) -> None:
    steps = [say("a"), {"id": "ask", "wait_for": "approval"}, say("b")]
    engine = create_engine(migrate.sqlalchemy_url(empty_database_url), poolclass=NullPool)
    with engine.connect() as connection:
        command.upgrade(migrate._config(connection), revision)
        connection.commit()
    engine.dispose()
    async with Database(empty_database_url) as db:
        item = queueing.work(await queueing.make_task(db, payload={"pipeline": steps}))
        async with db.transaction() as tx:
            await tx.execute(
                "INSERT INTO due_work (id, task_id, task_version, run_at, sort_key, priority,"
                " state, trigger, attempt, resumed, wait)"
                " VALUES (%s, %s, 1, '9999-01-01 UTC', 0, 5, 'waiting', 'run_now', 0, true, %s)",
                (item.id, item.task_id, Jsonb([{"step_id": "ask", "kind": "approval"}])),
            )
            for step_id, status, uses, output in (
                ("a", "succeeded", "core.log", {}),
                ("ask", "waiting", "", {"wait": {"kind": "approval"}}),
            ):
                await tx.execute(
                    "INSERT INTO step_run (run_id, step_id, status, attempt, uses, started_at,"
                    " output) VALUES (%s, %s, %s, 1, %s, now(), %s)",
                    (item.id, step_id, status, uses, Jsonb(output)),
                )
        migrate.upgrade(empty_database_url)

        settings = settings_of(empty_database_url)
        _, key = await make_agent(db, settings, "admin", name="admin")
        async with (
            started(settings, TravelClock(NOW)) as app,
            client_to(app, key) as admin,
            worker(empty_database_url, app.state.services.tools),
        ):
            await act(admin, f"/runs/{item.id}/approve")
            ended = await until_run(admin, str(item.id), "succeeded")
        assert [s["attempt"] for s in ended["steps"]] == [1, 1, 1]


def born(at: datetime) -> UUID:
    """Return an id of a run that was made at an instant."""
    low = uuid7().int & ((1 << 80) - 1)
    return UUID(int=int(at.timestamp() * 1000) << 80 | low)
