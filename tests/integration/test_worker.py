"""A whole worker in this process, on a real PostgreSQL, with tools made for the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from ordinaut.clock import TravelClock
from ordinaut.engine import calls
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.tool import ToolContext
from ordinaut.errors import ToolError
from ordinaut.model import Json
from ordinaut.store import queue
from ordinaut.store.database import Database
from ordinaut.workers import clock
from queueing import enqueue, make_task, rows, status_of, topics, work
from working import until, until_ended, until_status, worker


class Bench:
    """A registry with tools that tests can look into and let go."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.go = asyncio.Event()
        self.registry = ToolRegistry()
        for name in ("echo", "hold", "stubborn", "flaky", "refuse"):
            self.registry.register(f"test.{name}", getattr(self, name))
        self.registry.register("test.once", self.once, effect="at_most_once")

    async def echo(self, value: Any = None) -> Any:
        self.calls.append(value)
        return value

    async def hold(self, value: Any = None) -> Any:
        self.calls.append(value)
        await self.go.wait()
        return value

    async def once(self, value: Any = None) -> Any:
        return await self.hold(value)

    async def stubborn(self) -> str:
        """Ignore every cancellation until it may go."""
        self.calls.append("stubborn")
        while not self.go.is_set():
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                continue
        return "done all the same"

    async def flaky(self, *, context: ToolContext) -> str:
        self.calls.append(context.attempt)
        if context.attempt < 2:
            raise ToolError("not yet", retryable=True)
        return "now"

    async def refuse(self) -> None:
        raise ToolError("no", retryable=False)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def steps(*uses: str | dict[str, Json], **more: Json) -> dict[str, Json]:
    pipeline = [u if isinstance(u, dict) else {"id": f"s{i}", "uses": u}
                for i, u in enumerate(uses)]  # fmt: skip
    return {"pipeline": pipeline, **more}


async def start_run(db: Database, payload: Json, **columns: Any) -> UUID:
    """Store a task, enqueue one run of it and tell the workers."""
    task_id = await make_task(db, payload=payload, **columns)
    item = work(task_id)
    await enqueue(db, item)
    async with db.connection() as tx:
        await queue.hint(tx)
    return item.id


async def run_row(db: Database, run_id: UUID) -> dict[str, Any]:
    [(row,)] = await rows(db, "SELECT to_jsonb(r) FROM task_run r WHERE id = %s", run_id)
    return dict(row)


async def test_a_run_does_not_start_before_it_is_due_on_a_machine_whose_clock_is_behind(
    db: Database, database_url: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = TravelClock(datetime.now(UTC) - timedelta(hours=1))
    monkeypatch.setattr(clock, "SystemClock", lambda: behind)
    # As when the answer that would correct it is long on its way.
    monkeypatch.setattr(clock.DatabaseClock, "set", lambda *_, **__: None)
    run_id = await start_run(db, steps("test.echo"))
    async with worker(database_url, bench.registry):
        await until_ended(db, 1)
    found = await run_row(db, run_id)
    assert found["started_at"] >= found["run_at"]


async def test_a_run_is_executed_and_written_down(
    db: Database, database_url: str, bench: Bench
) -> None:
    payload = steps(
        {"id": "first", "uses": "test.echo", "with": {"value": "${params.who}"}},
        {"id": "second", "uses": "test.echo", "with": {"value": "hello ${steps.first}"}},
        params={"who": "ada"},
        output="${steps.second}!",
    )
    async with worker(database_url, bench.registry):
        run_id = await start_run(db, payload)
        await until_ended(db, 1)
    found = await run_row(db, run_id)
    assert (found["status"], found["output"], found["attempt"]) == ("succeeded", "hello ada!", 1)
    assert found["started_at"] <= found["finished_at"]
    recorded = await rows(db, "SELECT step_id, status, output FROM step_run ORDER BY step_id")
    assert recorded == [("first", "succeeded", "ada"), ("second", "succeeded", "hello ada")]
    assert await topics(db, run_id) == [
        "run.queued", "run.started", "step.succeeded", "step.succeeded", "run.succeeded",
    ]  # fmt: skip


async def test_thousands_of_runs_each_end_once(
    db: Database, database_url: str, bench: Bench
) -> None:
    task_id = await make_task(db, payload=steps({"uses": "test.echo", "with": {"value": 1}}))
    items = [work(task_id) for _ in range(3000)]
    await enqueue(db, *items)
    async with worker(database_url, bench.registry), worker(database_url, bench.registry):
        await until_ended(db, 3000)
    assert len(bench.calls) == 3000
    counts = await rows(
        db, "SELECT topic, count(*) FROM fact WHERE task_id IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    assert counts == [
        ("run.queued", 3000), ("run.started", 3000), ("run.succeeded", 3000),
        ("step.succeeded", 3000),
    ]  # fmt: skip


async def test_a_failure_goes_back_to_the_queue_for_later(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry):
        run_id = await start_run(
            db, steps("test.echo", "test.flaky"), backoff_strategy="fixed", backoff_seconds=60
        )
        await until_status(db, run_id, "scheduled")
        [(run_at, error)] = await rows(db, "SELECT run_at, error FROM due_work")
        seconds = (run_at - datetime.now(UTC)).total_seconds()
        assert 50 < seconds <= 60
        assert (error["code"], error["step_id"]) == ("tool_error", "s1")
        async with db.connection() as tx:
            await queue.promote(tx, now=run_at, limit=10)
            await queue.hint(tx)
        await until_ended(db, 1)
    assert bench.calls == [None, 1, 2]  # the first step was not executed again
    assert (await run_row(db, run_id))["attempt"] == 2
    assert "run.retrying" in await topics(db, run_id)


async def test_a_failure_that_can_not_be_retried_ends_the_run(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry):
        run_id = await start_run(db, steps("test.refuse"))
        await until_ended(db, 1)
    found = await run_row(db, run_id)
    assert (found["status"], found["error"]["message"]) == ("failed", "no")
    assert found["error"]["step_id"] == "s0"


async def test_a_definition_that_does_not_parse_fails_the_run_with_the_reason(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry):
        run_id = await start_run(db, {"pipeline": [{"id": "x"}]})
        await until_ended(db, 1)
    error = (await run_row(db, run_id))["error"]
    assert error["code"] == "invalid_definition"
    assert "payload.pipeline[0]" in error["message"]


async def test_a_version_that_does_not_exist_fails_the_run_with_the_reason(
    db: Database, database_url: str, bench: Bench
) -> None:
    item = work(await make_task(db), task_version=7)
    await enqueue(db, item)
    async with worker(database_url, bench.registry):
        await until_ended(db, 1)
    assert "version 7" in (await run_row(db, item.id))["error"]["message"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Unpicklable(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)
        self.two = lambda: two

    def __reduce__(self) -> str:
        raise RuntimeError("it can not be pickled")


def cyclic() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


ODD: dict[str, Any] = {
    "nan": lambda: float("nan"),
    "bytes": lambda: b"\xff",
    "cyclic": cyclic,
    "huge": lambda: "x" * 100_000_000,
    "nul": lambda: "a\0b",
    "surrogate": lambda: "\ud800",
    "object": object,
    "big integer": lambda: 2**70,
    "generator": lambda: iter(()),
}


def raising(error: BaseException) -> Any:
    def call() -> Iterator[None]:
        raise error

    return call


ODD_ERRORS = {
    "unprintable": Unprintable(),
    "unpicklable": Unpicklable("a", "b"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "nul in its text": ValueError("a\0b\ud800"),
    "recursion": RecursionError(),
    "memory": MemoryError(),
    "stop": StopIteration(),
    "cancelled": asyncio.CancelledError(),
}


@pytest.mark.parametrize("kind", ["async", "sync", "in time"])
@pytest.mark.parametrize("name", [*ODD, *ODD_ERRORS])
async def test_an_odd_result_is_a_failure_of_that_run_alone(
    db: Database, database_url: str, bench: Bench, name: str, kind: str
) -> None:
    made = ODD.get(name) or raising(ODD_ERRORS[name])

    async def odd() -> Any:
        return made()

    timeout = 10 if kind == "in time" else None
    bench.registry.register("test.odd", made if kind == "sync" else odd, timeout=timeout)
    bad_task = await make_task(db, payload=steps("test.odd"), max_retries=0)
    good_task = await make_task(db, payload=steps("test.echo"))
    bad, good = work(bad_task), [work(good_task) for _ in range(5)]
    await enqueue(db, *good[:2], bad, *good[2:])
    async with worker(database_url, bench.registry):
        await until_ended(db, 6)
    found = await run_row(db, bad.id)
    assert found["status"] == "failed"
    assert found["error"]["message"]
    json.dumps(found)
    assert [await status_of(db, item.id) for item in good] == ["succeeded"] * 5


async def test_a_running_run_is_canceled_on_request(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry):
        run_id = await start_run(db, steps("test.hold"))
        await until_status(db, run_id, "leased")
        await wait_for_calls(bench, 1)
        async with db.connection() as tx:
            assert (await queue.cancel(tx, run_ids=[run_id])).asked == (run_id,)
        await until_status(db, run_id, "canceled")
    assert (await topics(db, run_id))[-1] == "run.canceled"


async def test_a_run_that_ignores_its_cancellation_is_given_up(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry, worker_concurrency=1):
        run_id = await start_run(db, steps("test.stubborn", "test.echo"))
        await wait_for_calls(bench, 1)
        async with db.connection() as tx:
            await queue.cancel(tx, run_ids=[run_id])
        await until_status(db, run_id, "canceled")
        # Its only slot was replaced, so the next run finds room.
        other = await start_run(db, steps("test.echo"))
        await until_status(db, other, "succeeded")
        bench.go.set()
    assert await status_of(db, run_id) == "canceled"


async def test_a_step_that_ignores_its_timeout_is_left_and_fails(
    db: Database, database_url: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "GRACE", 0.05)
    stubborn = {"id": "s", "uses": "test.stubborn", "timeout_seconds": 0.05, "max_retries": 0}
    async with worker(database_url, bench.registry, worker_concurrency=1):
        run_id = await start_run(db, steps(stubborn))
        await until_status(db, run_id, "failed")
        # Its tool still runs, and its slot is free.
        other = await start_run(db, steps("test.echo"))
        await until_status(db, other, "succeeded")
        bench.go.set()
    assert (await run_row(db, run_id))["error"]["code"] == "step_timeout"


async def test_a_run_ends_with_its_deadline(db: Database, database_url: str, bench: Bench) -> None:
    async with worker(database_url, bench.registry):
        run_id = await start_run(db, steps("test.hold"), timeout_seconds=0.05, max_retries=0)
        await until_ended(db, 1)
    error = (await run_row(db, run_id))["error"]
    assert (error["code"], error["message"]) == (
        "step_timeout", "the run did not end within 0.05 s",
    )  # fmt: skip


async def test_a_run_that_takes_longer_is_announced_while_it_runs(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry):
        run_id = await start_run(db, steps("test.hold"))

        async def announced() -> bool:
            return await topics(db, run_id) == ["run.queued", "run.started"]

        await until(announced, what="the run is announced")
        bench.go.set()
        await until_ended(db, 1)
    assert (await topics(db, run_id)).count("run.started") == 1


async def test_leases_are_renewed_while_a_run_lasts(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry, lease_seconds=1.0):
        run_id = await start_run(db, steps("test.hold"))
        await wait_for_calls(bench, 1)
        [(first,)] = await rows(db, "SELECT locked_until FROM due_work")

        async def renewed() -> bool:
            [(now,)] = await rows(db, "SELECT locked_until FROM due_work")
            return bool(now > first + timedelta(seconds=1))

        await until(renewed, what="the lease was renewed for longer than it lasts")
        async with db.connection() as tx:
            assert await queue.expire(tx, limit=10) == queue.Expired(0, 0)
        bench.go.set()
        await until_status(db, run_id, "succeeded")


async def test_a_lost_lease_stops_the_run_and_its_result_is_discarded(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry, lease_seconds=1.0) as made:
        run_id = await start_run(db, steps("test.hold"))
        await wait_for_calls(bench, 1)
        await rows(
            db,
            "UPDATE due_work SET lease_token = lease_token + 1, locked_by = gen_random_uuid() "
            "RETURNING id",
        )

        async def stopped() -> bool:
            return made.health()[1]["running"] == 0

        await until(stopped, what="the worker stopped the run")
    assert await status_of(db, run_id) == "leased"
    assert await rows(db, "SELECT count(*) FROM task_run") == [(0,)]


async def test_a_suspended_run_holds_no_slot_and_goes_on_in_time(
    db: Database, database_url: str, bench: Bench
) -> None:
    payload = steps("test.echo", {"id": "pause", "wait_for": "1h"}, "test.echo")
    async with worker(database_url, bench.registry, worker_concurrency=1):
        run_id = await start_run(db, payload)
        await until_status(db, run_id, "waiting")
        other = await start_run(db, steps("test.echo"))
        await until_status(db, other, "succeeded")
        [(run_at, wait)] = await rows(db, "SELECT run_at, wait FROM due_work")
        assert run_at - datetime.now(UTC) > timedelta(minutes=59)
        assert wait[0]["step_id"] == "pause"


async def test_an_approval_waits_without_an_end(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry):
        run_id = await start_run(db, steps({"id": "ask", "wait_for": "approval"}))
        await until_status(db, run_id, "waiting")
    async with db.connection() as tx:
        assert await queue.next_wake(tx) is None


async def test_a_call_that_must_not_be_repeated_is_noted_before_it_is_made(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry):
        await start_run(db, steps("test.once"))
        await wait_for_calls(bench, 1)
        assert await rows(db, "SELECT step_id, status FROM step_run") == [("s0", "running")]
        bench.go.set()
        await until_ended(db, 1)
    assert await rows(db, "SELECT step_id, status FROM step_run") == [("s0", "succeeded")]


async def test_a_drain_gives_back_at_once_what_does_not_end_in_time(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(database_url, bench.registry, worker_concurrency=1, drain_seconds=0.1):
        started = await start_run(db, steps("test.hold"))
        await wait_for_calls(bench, 1)
    [row] = await rows(db, "SELECT id, state, attempt, crashes, locked_by FROM due_work")
    assert row == (started, "ready", 0, 0, None)
    assert await rows(db, "SELECT state FROM worker") == [("stopped",)]


async def test_a_suspect_is_noted_before_it_starts(
    db: Database, database_url: str, bench: Bench
) -> None:
    task_id = await make_task(db, payload=steps("test.hold"))
    items = [work(task_id) for _ in range(3)]
    await enqueue(db, *items)
    await rows(db, "UPDATE due_work SET crashes = 1 RETURNING id")
    async with worker(database_url, bench.registry):
        await wait_for_calls(bench, 1)
        started = await rows(db, "SELECT id FROM due_work WHERE started_at IS NOT NULL")
        assert len(started) == 1  # they start one after the other
        bench.go.set()
        await until_ended(db, 3)
    spans = await rows(db, "SELECT started_at, finished_at FROM task_run ORDER BY started_at")
    assert all(before[1] <= after[0] for before, after in pairwise(spans)), spans


async def test_a_cut_connection_is_opened_again(
    db: Database, database_url: str, bench: Bench
) -> None:
    task_id = await make_task(db, payload=steps("test.echo", "test.echo"))
    async with worker(database_url, bench.registry):
        for count in range(1, 6):
            await enqueue(db, *(work(task_id) for _ in range(200)))
            await rows(
                db,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name LIKE 'ordinaut %%' "
                "AND pid <> pg_backend_pid()",
            )
            await until_ended(db, count * 200)
    counts = await rows(
        db, "SELECT topic, count(*) FROM fact WHERE task_id IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    assert counts == [
        ("run.queued", 1000), ("run.started", 1000), ("run.succeeded", 1000),
        ("step.succeeded", 2000),
    ]  # fmt: skip


async def test_a_worker_that_does_not_hear_looks_by_itself(
    db: Database, database_url: str, bench: Bench
) -> None:
    async with worker(
        database_url, bench.registry, database_direct_url="postgresql://127.0.0.1:1/nowhere"
    ) as made:
        run_id = await start_run(db, steps("test.echo"))
        await until_status(db, run_id, "succeeded")
        assert made.health()[1]["listening"] is False


async def wait_for_calls(bench: Bench, count: int) -> None:
    async def called() -> bool:
        return len(bench.calls) >= count

    await until(called, what=f"{count} calls")
