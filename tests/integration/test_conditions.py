"""Condition tasks: polled on an interval, fired when the condition becomes true."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest

from calling import client_to, create, make_agent, settings_of, started
from ordinaut.clock import TravelClock
from ordinaut.errors import ToolError
from ordinaut.store import calendars, probes, queue, topics
from ordinaut.store.database import Database
from ordinaut.workers.prober import Prober
from probing import (
    EVERY,
    Gauge,
    condition,
    fired,
    later,
    poll,
    prober,
    state,
    told,
    verdicts,
)
from queueing import NOW, rows
from working import process, until, until_ended


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


@pytest.fixture
async def one(database_url: str, gauge: Gauge) -> AsyncIterator[Prober]:
    async with prober(database_url, gauge.registry()) as made:
        yield made


async def follow(one: Prober, gauge: Gauge, levels: list[Any], *, start: int = 0) -> None:
    """Poll once for each level, an interval apart."""
    for number, level in enumerate(levels, start):
        gauge.level = level
        assert await poll(one, number * EVERY) == 1


async def pause(db: Database, task_id: UUID, status: str = "paused") -> None:
    async with db.transaction() as tx:
        await tx.execute("UPDATE task SET status = %s WHERE id = %s", (status, task_id))


# --- Edge and level -------------------------------------------------------------------------


async def test_an_edge_fires_once_each_time_the_condition_becomes_true(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db)

    await follow(one, gauge, [1, 10, 11, 12, 2, 20, 21])

    assert await fired(db, task_id) == [10, 20]
    assert await told(db, task_id) == ["run.queued", "run.queued"]
    assert await verdicts(db, task_id) == []
    known = await state(db, task_id)
    assert (known.holds, known.since, known.fired_at) == (True, later(50), later(50))
    assert (known.polled_at, known.next_poll_at, known.error) == (later(60), later(70), None)


async def test_polls_that_find_nothing_leave_no_trace_but_the_state(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    await condition(db)
    await follow(one, gauge, [1] * 50)

    for table in ("due_work", "task_run", "step_run", "event", "occurrence", "run_log"):
        assert await rows(db, f"SELECT count(*) FROM {table}") == [(0,)], table
    assert gauge.calls == 50


async def test_what_holds_at_the_first_poll_fires(db: Database, one: Prober, gauge: Gauge) -> None:
    task_id = await condition(db)
    await follow(one, gauge, [10, 11])
    assert await fired(db, task_id) == [10]


async def test_a_level_fires_at_each_poll_at_which_it_holds(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, mode="level")
    await follow(one, gauge, [1, 10, 11, 2, 12])
    assert await fired(db, task_id) == [10, 11, 12]


async def test_the_run_is_an_ordinary_one_with_the_instant_of_its_poll(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    columns = {"priority": 8, "concurrency_key": "db", "max_concurrency": 3}
    task_id = await condition(db, columns=columns)
    gauge.level = 10

    await poll(one, 3)

    assert await rows(
        db,
        "SELECT task_id, trigger, scheduled_for, run_at, priority, concurrency_key, state,"
        " max_concurrency FROM due_work",
    ) == [(task_id, "condition", NOW, later(3), 8, "db", "ready", 3)]
    assert await rows(db, "SELECT fired, last_scheduled_for FROM schedule") == [(1, NOW)]


# --- Rhythm ---------------------------------------------------------------------------------


async def test_nobody_polls_before_its_time(db: Database, one: Prober) -> None:
    await condition(db)
    assert [await poll(one, at) for at in (0, 0.1, 9.9, 10, 19.9, 20)] == [1, 0, 0, 1, 0, 1]


async def test_polls_that_nobody_did_are_left_out_and_the_rhythm_stays(
    db: Database, one: Prober
) -> None:
    task_id = await condition(db)
    assert [await poll(one, at) for at in (0, 1234.5, 1239.9, 1240)] == [1, 1, 0, 1]
    assert (await state(db, task_id)).next_poll_at == later(1250)


async def test_nothing_is_polled_after_the_end_and_the_task_is_completed(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, columns={"ends_at": later(25)})

    await follow(one, gauge, [1, 1, 1])
    assert await poll(one, 100) == 0

    assert await rows(db, "SELECT status FROM task") == [("completed",)]
    assert await told(db, task_id) == ["task.completed"]


async def test_a_poll_that_comes_after_the_end_calls_nothing(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, columns={"ends_at": later(5)})
    gauge.level = 10

    await poll(one, 60)

    assert (gauge.calls, await fired(db, task_id)) == (0, [])
    assert await rows(db, "SELECT status FROM task") == [("completed",)]


async def test_after_max_runs_the_task_is_completed(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, mode="level", columns={"max_runs": 2})

    await follow(one, gauge, [10, 10])
    assert await poll(one, 20) == 0

    assert await rows(db, "SELECT status FROM task") == [("completed",)]
    assert (await told(db, task_id))[-1] == "task.completed"


# --- What keeps it from firing --------------------------------------------------------------


async def test_an_edge_within_the_cool_down_gets_one_verdict_and_does_not_fire(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, cooldown_seconds=35)

    await follow(one, gauge, [10, 1, 11, 12, 13, 1, 14])

    assert await fired(db, task_id) == [10, 14]
    [(verdict, reason)] = await verdicts(db, task_id)
    assert (verdict, "within the cool-down of 35 s" in reason) == ("skipped_condition", True)
    assert await told(db, task_id) == ["run.queued", "task.skipped", "run.queued"]


async def test_a_level_fires_again_when_the_cool_down_is_over(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, mode="level", cooldown_seconds=30)
    await follow(one, gauge, [10, 11, 12, 13, 14, 15, 16])
    assert await fired(db, task_id) == [10, 13, 16]
    assert await verdicts(db, task_id) == []


async def test_a_run_that_has_not_ended_stops_an_edge_once_with_a_verdict(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, mode="level", columns={"overlap": "skip"})
    await follow(one, gauge, [10, 11, 12, 1, 13, 14])
    assert await fired(db, task_id) == [10]
    assert [verdict for verdict, _ in await verdicts(db, task_id)] == ["skipped_overlap"]


async def test_a_new_edge_replaces_a_run_if_the_task_says_so(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, columns={"overlap": "cancel_running"})
    await follow(one, gauge, [10, 1, 12])
    assert await fired(db, task_id) == [12]
    assert await rows(db, "SELECT status FROM task_run") == [("canceled",)]


async def test_a_day_that_a_calendar_excludes_gets_its_verdict(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    day = NOW.date().isoformat()
    async with db.transaction() as tx:
        [(agent,)] = await rows(tx, "INSERT INTO agent (id, name) VALUES (gen_random_uuid(), 'a')"
                                    " RETURNING id")  # fmt: skip
        await calendars.create(tx, "off", definition={"dates": [day]}, agent_id=agent, now=NOW)
    task_id = await condition(db, columns={"exclude": ["off"]})

    await follow(one, gauge, [10, 11])

    assert await fired(db, task_id) == []
    assert await verdicts(db, task_id) == [("skipped_calendar", f'calendar "off": {day}')]


# --- Failure --------------------------------------------------------------------------------


async def test_a_failing_probe_is_said_once_and_polled_on(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db)
    gauge.level = 1
    await poll(one)

    await follow(one, gauge, [ToolError("no such host")] * 3, start=1)
    failing = await state(db, task_id)
    await follow(one, gauge, [10], start=4)
    after = await state(db, task_id)

    assert (failing.failures, failing.failing_since, failing.holds) == (3, later(10), False)
    assert failing.error["message"] == "no such host"
    assert (after.failures, after.failing_since, after.error) == (0, None, None)
    assert await fired(db, task_id) == [10]
    assert await told(db, task_id) == ["task.probe_failed", "task.probe_recovered", "run.queued"]
    for topic, data in await rows(
        db, "SELECT topic, data FROM fact WHERE topic LIKE 'task.probe%%'"
    ):
        assert jsonschema_rs.is_valid(topics.catalogue()[topic].schema, data)


async def test_a_failure_between_two_true_results_is_no_edge(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db)
    await follow(one, gauge, [10, ToolError("away"), 11])
    assert await fired(db, task_id) == [10]


@pytest.mark.parametrize(
    ("expr", "code"),
    [("length(level) > `1`", "template_error"), ("level.x", None), ("`0`", None)],
)
async def test_what_the_expression_makes_of_a_result(
    db: Database, one: Prober, expr: str, code: str | None
) -> None:
    task_id = await condition(db, expr)
    await poll(one)
    known = await state(db, task_id)
    assert (known.error and known.error["code"]) == code
    assert known.holds is {"length(level) > `1`": None, "level.x": False, "`0`": True}[expr]


async def test_a_probe_that_takes_too_long_has_failed(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db, timeout_seconds=0.05)
    gauge.blocked = asyncio.Event()
    await poll(one)
    assert (await state(db, task_id)).error["code"] == "step_timeout"


async def test_a_tool_that_became_at_most_once_is_not_called(
    db: Database, database_url: str, gauge: Gauge
) -> None:
    task_id = await condition(db)
    async with prober(database_url, gauge.registry(effect="at_most_once")) as other:
        await poll(other)
    assert gauge.calls == 0
    assert "at_most_once" in (await state(db, task_id)).error["message"]


async def test_a_pipeline_that_can_not_be_read_any_more_is_a_failed_poll(
    db: Database, one: Prober
) -> None:
    task_id = await condition(db)
    await rows(db, "UPDATE task_definition SET payload = '{\"pipeline\": 1}' RETURNING 1")
    await poll(one)
    known = await state(db, task_id)
    assert (known.error["code"], known.next_poll_at) == ("invalid_definition", later(10))


# --- Crashes and races ----------------------------------------------------------------------


async def test_a_poll_whose_worker_died_is_done_again_with_the_same_key(
    db: Database, database_url: str, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db)
    gauge.blocked, gauge.level = asyncio.Event(), 10
    [dying] = await one.run_once(now=NOW)
    await gauge.entered.wait()
    dying.cancel()
    await asyncio.wait([dying])
    gauge.blocked = None

    async with prober(database_url, gauge.registry(), worker_id=UUID(int=2)) as other:
        assert [await poll(other, at) for at in (30, 59.9, 60)] == [0, 0, 1]

    assert gauge.keys[0] == gauge.keys[1]
    assert await fired(db, task_id) == [10]


async def test_a_probe_that_takes_workers_with_it_comes_less_and_less_often(
    db: Database,
) -> None:
    task_id = await condition(db)
    claimed: list[float] = []
    async with db.connection() as tx:
        for minute in range(200):
            at = later(60 * minute)
            if await probes.claim(tx, worker_id=UUID(int=1), limit=5, now=at):
                claimed.append(minute)
        assert await probes.due_in(tx) is not None
    assert claimed == [0, 1, 3, 7, 15, 31, 63, 127, 191]
    assert await rows(db, "SELECT crashes FROM probe WHERE task_id = %s", task_id) == [(6,)]


async def test_two_workers_that_race_fire_each_edge_once(
    db: Database, database_url: str, gauge: Gauge
) -> None:
    tasks = [await condition(db) for _ in range(5)]
    registry = gauge.registry()
    async with (
        prober(database_url, registry, worker_id=UUID(int=1)) as a,
        prober(database_url, registry, worker_id=UUID(int=2)) as b,
    ):
        for number in range(10):
            gauge.level = 10 if number % 2 else 0
            done = await asyncio.gather(poll(a, number * EVERY), poll(b, number * EVERY))
            assert sum(done) == len(tasks)
    for task_id in tasks:
        assert await fired(db, task_id) == [10] * 5


async def test_a_worker_that_slept_through_its_claim_fires_nothing(
    db: Database, database_url: str, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db)
    gauge.blocked, gauge.level = asyncio.Event(), 10
    [sleeping] = await one.run_once(now=NOW)
    await gauge.entered.wait()
    awake = Gauge(11)
    async with prober(database_url, awake.registry(), worker_id=UUID(int=2)) as other:
        assert await poll(other, 60) == 1

    gauge.blocked.set()
    await sleeping

    assert await fired(db, task_id) == [11]
    assert (await state(db, task_id)).polled_at == later(60)


async def test_a_worker_that_leaves_gives_its_polls_back(
    db: Database, database_url: str, one: Prober, gauge: Gauge
) -> None:
    task_id = await condition(db)
    gauge.blocked, gauge.level = asyncio.Event(), 10
    await one.run_once(now=NOW)
    await gauge.entered.wait()

    one.stop()
    await one.run()

    gauge.blocked = None
    async with prober(database_url, gauge.registry(), worker_id=UUID(int=2)) as other:
        assert await poll(other, 1) == 1
    assert await fired(db, task_id) == [10]
    assert await rows(db, "SELECT crashes FROM probe") == [(0,)]


@pytest.mark.parametrize("status", ["paused", "canceled", "completed"])
async def test_a_task_that_is_not_active_any_more_does_not_fire(
    db: Database, one: Prober, gauge: Gauge, status: str
) -> None:
    task_id = await condition(db)
    gauge.blocked, gauge.level = asyncio.Event(), 10
    [under_way] = await one.run_once(now=NOW)
    await gauge.entered.wait()

    await pause(db, task_id, status)
    gauge.blocked.set()
    await under_way

    assert await fired(db, task_id) == []
    assert await poll(one, 1000) == 0
    assert await rows(db, "SELECT next_at FROM probe") == [(None,)]


async def test_a_run_that_fired_is_leased_and_carries_its_result(
    db: Database, one: Prober, gauge: Gauge
) -> None:
    await condition(db)
    gauge.level = 10
    await poll(one)
    async with db.connection() as tx:
        found = await queue.lease(
            tx, worker_id=UUID(int=3), limit=5, lease_for=later(30) - NOW, now=later(1)
        )
    assert [(held.trigger, held.payload) for held in found.leases] == [
        ("condition", {"probe": {"level": 10}})
    ]


# --- The whole of it ------------------------------------------------------------------------


class Disk:
    """A server that says how much is free, and counts who asks with which token."""

    def __init__(self) -> None:
        self.free = 50
        self.asked = 0
        self.silent = False

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        if self.silent:
            await reader.read()  # until the other side is gone
            writer.close()
            return
        status = "200 OK" if b"x-token: s3cret-token-0815" in head.lower() else "401 Unauthorized"
        body = json.dumps({"free": self.free}).encode()
        start = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(f"{start}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


async def test_workers_poll_a_server_and_one_that_is_killed_is_followed_by_another(
    db: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    disk = Disk()
    server = await asyncio.start_server(disk.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    settings = settings_of(database_url, redis_url)
    _, key = await make_agent(db, settings, "admin")
    options = {"http_allow_private": True, "secret": settings.secret.get_secret_value()}
    headers = {"X-Token": "${secrets.TOKEN}"}
    probe = {"uses": "http.request", "with": {"url": url, "headers": headers}, "every": 1}
    message = "only ${probe.json.free} are free"
    steps = [{"id": "tell", "uses": "core.transform", "with": {"value": message}}]

    async with server, started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        assert (await client.put("/secrets/TOKEN", json={"value": "s3cret-token-0815"})).is_success
        with process(database_url, tmp_path / "one.log", **options) as first:
            task = await create(
                client,
                schedule_kind="condition",
                schedule_expr="status == `200` && json.free < `10`",
                payload={"probe": probe, "pipeline": steps, "output": "${steps.tell}"},
            )
            await until(lambda: _seen(db, holds=False), what="a poll has found it false")
            disk.silent = True
            asked = disk.asked
            await until(lambda: _more(disk, asked), what="the worker is within a poll")
            first.send(signal.SIGKILL)
            first.wait()
        disk.silent, disk.free = False, 7
        # The dead worker's time is over: what would take a minute is said to have passed.
        await rows(db, "UPDATE probe SET locked_until = now() RETURNING 1")
        with process(database_url, tmp_path / "two.log", **options):
            await until_ended(db, 1)
        [run] = (await client.get("/runs", params={"task_id": task["id"]})).json()["items"]
        known = (await client.get(f"/tasks/{task['id']}")).json()["condition"]

    assert (run["status"], run["trigger"]) == ("succeeded", "condition")
    assert run["probe"]["json"] == {"free": 7}
    assert run["output"] == "only 7 are free"
    assert (known["holds"], known["fired_at"] is not None) == (True, True)


async def _seen(db: Database, *, holds: bool) -> bool:
    return await rows(db, "SELECT holds FROM probe") == [(holds,)]


async def _more(disk: Disk, before: int) -> bool:
    return disk.asked > before
