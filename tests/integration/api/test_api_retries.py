"""Runs that are tried again: from a step, after an edit, and when a call is in doubt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

import queueing
from calling import act, assert_problem, create, rows
from ordinaut.engine.registry import ToolRegistry
from ordinaut.errors import ToolError
from ordinaut.model import Json
from ordinaut.store import queue
from ordinaut.store.database import Database
from running import say, start, until_run
from working import worker


class Bench:
    """Tools of the API and the worker: one that counts, and one that fails as told."""

    def __init__(self, registry: ToolRegistry) -> None:
        self.registry = registry
        self.calls: list[str] = []
        self.broken = True
        registry.register("test.count", self.count)
        registry.register("test.fail", self.fail)
        registry.register("test.pay", self.pay, effect="at_most_once")

    async def count(self, name: str) -> str:
        self.calls.append(name)
        return name

    async def fail(self, name: str) -> str:
        self.calls.append(name)
        if self.broken:
            raise ToolError("broken", retryable=False)
        return name

    async def pay(self, name: str) -> str:
        self.calls.append(name)
        return f"paid {name}"


@pytest.fixture
def bench(app: FastAPI) -> Bench:
    return Bench(app.state.services.tools)


@pytest.fixture
async def working(bench: Bench, database_url: str) -> AsyncIterator[None]:
    async with worker(database_url, bench.registry):
        yield


def count(name: str, uses: str = "count", **keys: Json) -> Json:
    return {"id": name, "uses": f"test.{uses}", "with": {"name": name}, **keys}


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize(
    ("from_step", "again"),
    [
        (None, ["d"]),
        ("d", ["d"]),
        ("c", ["c1", "c2", "d"]),
        ("c2", ["c2", "d"]),
        ("b", ["b", "c1", "c2", "d"]),
        ("b_on_error", ["b", "b_on_error", "c1", "c2", "d"]),
        ("a", ["a", "b", "c1", "c2", "d"]),
    ],
)
async def test_a_failed_run_is_retried_from_any_step(
    admin: httpx2.AsyncClient, bench: Bench, from_step: str | None, again: list[str]
) -> None:
    group = {"id": "c", "parallel": [count("c1"), count("c2")], "max_parallel": 1}
    rescued = count("b", "fail", on_error=count("b_on_error"))
    run_id = await start(admin, count("a"), rescued, group, count("d", "fail"))
    await until_run(admin, run_id, "failed")
    bench.calls.clear()
    bench.broken = from_step == "b_on_error"
    query = f"?from_step={from_step}" if from_step else ""

    await act(admin, f"/runs/{run_id}/retry{query}", 202)

    ended = await until_run(admin, run_id, "failed" if bench.broken else "succeeded")
    assert bench.calls == again
    assert ended["id"] == run_id


@pytest.mark.usefixtures("working")
async def test_a_retry_from_a_step_that_does_not_exist_changes_nothing(
    admin: httpx2.AsyncClient, db: Database, bench: Bench
) -> None:
    run_id = await start(admin, count("first"), count("last", "fail"))
    await until_run(admin, run_id, "failed")

    problem = assert_problem(await admin.post(f"/runs/{run_id}/retry?from_step=frist"), status=422)

    assert problem["errors"][0]["path"] == "from_step"
    assert 'did you mean "first"?' in problem["detail"]
    assert await rows(db, "SELECT count(*) FROM due_work") == [(0,)]
    assert_problem(await admin.post(f"/runs/{run_id}/retry?from=first"), status=422)


@pytest.mark.usefixtures("working")
async def test_a_run_ends_with_the_definition_that_it_began_with(
    admin: httpx2.AsyncClient, bench: Bench
) -> None:
    old = {"pipeline": [count("a"), {"wait_for": "approval"}, count("old", "fail")]}
    task = await create(admin, payload=old)
    run_id = (await act(admin, f"/tasks/{task['id']}/run_now", 202))["id"]
    await until_run(admin, run_id, "waiting")
    new = {"pipeline": [count("a"), count("new")]}
    answer = await admin.patch(f"/tasks/{task['id']}", json={"payload": new})
    assert answer.status_code == 200, answer.text

    await act(admin, f"/runs/{run_id}/approve")
    await until_run(admin, run_id, "failed")
    bench.broken = False
    await act(admin, f"/runs/{run_id}/retry?from_step=old", 202)

    ended = await until_run(admin, run_id, "succeeded")
    assert ended["task_version"] == 1
    assert bench.calls == ["a", "old", "old"]
    fresh = (await act(admin, f"/tasks/{task['id']}/run_now", 202))["id"]
    assert (await until_run(admin, fresh, "succeeded"))["task_version"] == 2
    assert bench.calls == ["a", "old", "old", "a", "new"]


async def in_doubt(
    admin: httpx2.AsyncClient, db: Database, bench: Bench, *steps: Json, **payload: Json
) -> str:
    """Return a run of which a worker died within its step ``pay``, as the next one finds it."""
    run_id = await start(admin, *steps, **payload)
    [held] = await queueing.lease(db)
    async with db.connection() as tx:
        marker = queueing.step("pay", status="running", uses="test.pay", finished_at=None,
                               output=None)  # fmt: skip
        await queue.checkpoint(tx, [queueing.checkpoint(held, marker)], worker_id=queueing.WORKER)
        await queue.expire(tx, limit=10, now=queueing.later(3600))
    return run_id


async def test_a_call_in_doubt_waits_for_a_person_who_says_that_it_happened(
    admin: httpx2.AsyncClient, db: Database, bench: Bench, database_url: str
) -> None:
    steps = (count("pay", "pay"), count("after"))
    run_id = await in_doubt(admin, db, bench, *steps, output="${steps.pay.receipt}")
    async with worker(database_url, bench.registry):
        run = await until_run(admin, run_id, "waiting")
        [wait] = run["wait"]
        assert (wait["step_id"], wait["kind"]) == ("pay", "effect_unknown")
        assert "may or may not have happened" in wait["message"]
        [step] = run["steps"]
        assert (step["status"], step["error"]["code"]) == ("waiting", "effect_unknown")
        assert bench.calls == []

        for _ in range(2):
            await act(admin, f"/runs/{run_id}/approve", note="seen", output={"receipt": 7})

        ended = await until_run(admin, run_id, "succeeded")
    assert ended["output"] == 7
    assert bench.calls == ["after"]
    told: dict[str, Any] = ended["steps"][0]
    assert (told["status"], told["error"]["details"]["by"]) == ("succeeded", "admin")


async def test_a_call_in_doubt_waits_for_a_person_who_says_that_it_did_not_happen(
    admin: httpx2.AsyncClient, db: Database, bench: Bench, database_url: str
) -> None:
    run_id = await in_doubt(admin, db, bench, count("pay", "pay"), count("after"))
    async with worker(database_url, bench.registry):
        await until_run(admin, run_id, "waiting")
        answer = await admin.post(f"/runs/{run_id}/reject", json={"output": 1})
        assert_problem(answer, status=422)

        for _ in range(2):
            await act(admin, f"/runs/{run_id}/reject", note="it is lost")

        ended = await until_run(admin, run_id, "failed")
        assert ended["error"]["code"] == "wait_refused"
        assert "rejected by admin: it is lost" in ended["error"]["message"]
        assert bench.calls == []

        # To retry the run is to decide that the call may be made.
        await act(admin, f"/runs/{run_id}/retry", 202)
        await until_run(admin, run_id, "succeeded")
    assert bench.calls == ["pay", "after"]


async def test_a_call_in_doubt_is_made_again_when_a_person_retries_it(
    admin: httpx2.AsyncClient, db: Database, bench: Bench, database_url: str
) -> None:
    run_id = await in_doubt(admin, db, bench, count("pay", "pay"), output="${steps.pay}")
    async with worker(database_url, bench.registry):
        await until_run(admin, run_id, "waiting")

        await act(admin, f"/runs/{run_id}/retry", 202)

        assert (await until_run(admin, run_id, "succeeded"))["output"] == "paid pay"
        assert bench.calls == ["pay"]


@pytest.mark.usefixtures("working")
async def test_only_what_ended_badly_or_is_in_doubt_can_be_retried(
    admin: httpx2.AsyncClient,
) -> None:
    good = await start(admin, say("a"))
    asks = await start(admin, {"wait_for": "approval"})
    await until_run(admin, good, "succeeded")
    await until_run(admin, asks, "waiting")

    for run_id in (good, asks):
        assert_problem(await admin.post(f"/runs/{run_id}/retry"), status=409)
    answer = await admin.post(f"/runs/{asks}/approve", json={"output": 1})
    assert_problem(answer, status=422)
