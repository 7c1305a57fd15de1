"""Runs that wait for people: over HTTP, with a worker that executes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from calling import AgentOf, act, assert_problem, create, rows
from ordinaut.model import Json
from ordinaut.store import queue
from ordinaut.store.database import Database
from working import until, worker

ASK = {"id": "ask", "wait_for": {"approval": {"message": "Pay ${params.n}?"}}}


def say(step_id: str, text: str = "hi") -> Json:
    return {"id": step_id, "uses": "core.log", "with": {"message": text}}


@pytest.fixture
async def working(app: FastAPI, database_url: str) -> AsyncIterator[None]:
    """A worker with the tools of the API."""
    async with worker(database_url, app.state.services.tools):
        yield


async def start(client: httpx2.AsyncClient, *steps: Json, **payload: Json) -> str:
    """Store a task with these steps, run it, and return the id of the run."""
    given = {"params": {"n": 7}, "pipeline": list(steps), **payload}
    task = await create(client, payload=given, backoff_seconds=0.01)
    run: dict[str, str] = await act(client, f"/tasks/{task['id']}/run_now", 202)
    return run["id"]


async def until_run(client: httpx2.AsyncClient, run_id: str, *statuses: str) -> dict[str, Any]:
    """Wait until a run has one of these statuses, and return it."""
    run: dict[str, Any] = {}

    async def there() -> bool:
        nonlocal run
        run = (await client.get(f"/runs/{run_id}")).json()
        return run["status"] in statuses

    await until(there, what=f"run {run_id} is {' or '.join(statuses)}")
    return run


async def told(db: Database, run_id: str) -> list[str]:
    """Return what the outbox says about a run since it waits."""
    found = await rows(db, "SELECT topic FROM event WHERE run_id = %s ORDER BY seq", run_id)
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
