"""What tools write and report while they run, over HTTP and in the outbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from calling import AgentOf, ClientOf, assert_problem, rows
from ordinaut.engine.tool import ToolContext
from ordinaut.errors import ToolError
from ordinaut.model import Json
from ordinaut.store.database import Database
from ordinaut.workers.scribe import MAX_LINES, MAX_SIZE
from running import say, start, until_run
from working import PATIENCE, until, worker


class Bench:
    """Tools that talk, and one that waits for a word before it ends."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.tries = 0

    async def talk(self, *, context: ToolContext) -> None:
        for level in ("debug", "info", "warning", "error"):
            context.log(level, f"a {level}", number=2**70, text="ș\0", rest=[1])

    async def chatter(self, size: int, count: int, *, context: ToolContext) -> None:
        for number in range(count):
            context.log("info", f"{number} {'x' * size}")

    async def slow(self, *, context: ToolContext) -> None:
        context.log("info", "half of it is done")
        context.progress(0.25)
        context.progress(0.5, "half of it")
        await self.go.wait()
        context.log("info", "all of it is done")
        context.progress(1, "all of it")

    async def flaky(self, *, context: ToolContext) -> None:
        self.tries += 1
        context.log("info", f"try {self.tries}")
        if self.tries < 3:
            raise ToolError("not yet", retryable=True)


@pytest.fixture
async def bench(app: FastAPI, database_url: str) -> AsyncIterator[Bench]:
    """The tools, and a worker that has them."""
    made, tools = Bench(), app.state.services.tools
    for name in ("talk", "chatter", "slow", "flaky"):
        tools.register(f"test.{name}", getattr(made, name))
    async with worker(database_url, tools):
        yield made


async def lines_of(client: httpx2.AsyncClient, run_id: str, query: str = "") -> list[Any]:
    answer = await client.get(f"/runs/{run_id}/logs{query}")
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["items"]
    return found


@pytest.mark.usefixtures("bench")
async def test_the_lines_of_a_run_are_there_when_it_has_ended(admin: httpx2.AsyncClient) -> None:
    each = say("b", "${index}: ${item}") | {"foreach": ["x", "y"]}
    run_id = await start(admin, say("a", "hello"), {"id": "t", "uses": "test.talk"}, each)
    await until_run(admin, run_id, "succeeded")

    lines = await lines_of(admin, run_id)

    assert [(line["step_id"], line["index"], line["level"], line["message"]) for line in lines] == [
        ("a", None, "info", "hello"),
        ("t", None, "debug", "a debug"),
        ("t", None, "info", "a info"),
        ("t", None, "warning", "a warning"),
        ("t", None, "error", "a error"),
        ("b", 0, "info", "0: x"),
        ("b", 1, "info", "1: y"),
    ]
    assert lines[1]["fields"] == {"number": str(2**70), "text": "ș\ufffd", "rest": "[1]"}
    assert abs(datetime.fromisoformat(lines[0]["at"]) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.usefixtures("bench")
async def test_lines_are_chosen_by_level_and_step_and_come_in_pages(
    admin: httpx2.AsyncClient,
) -> None:
    run_id = await start(admin, say("a"), {"id": "t", "uses": "test.talk"})
    await until_run(admin, run_id, "succeeded")

    assert [line["level"] for line in await lines_of(admin, run_id, "?level=warning")] == [
        "warning", "error",
    ]  # fmt: skip
    assert len(await lines_of(admin, run_id, "?step_id=a")) == 1
    seen, cursor = [], ""
    while cursor is not None:
        page = (await admin.get(f"/runs/{run_id}/logs?limit=2{cursor}")).json()
        seen += page["items"]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert seen == await lines_of(admin, run_id)
    for query in ("?level=loud", "?cursor=!", "?limit=0", "?stepid=a"):
        assert_problem(await admin.get(f"/runs/{run_id}/logs{query}"), status=422)


async def test_all_attempts_of_a_run_are_in_its_log(
    admin: httpx2.AsyncClient, bench: Bench, db: Database
) -> None:
    run_id = await start(admin, {"id": "f", "uses": "test.flaky"})

    async def over() -> bool:
        async with db.connection() as tx:
            await tx.execute("UPDATE due_work SET state = 'ready' WHERE state = 'scheduled'")
        return bench.tries == 3

    await until(over, what="the tool was called three times")
    await until_run(admin, run_id, "succeeded")
    assert [line["message"] for line in await lines_of(admin, run_id)] == [
        "try 1",
        "try 2",
        "try 3",
    ]


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize(("size", "count"), [(1, MAX_LINES + 50), (8_000, 100)])
async def test_the_log_of_an_attempt_is_bounded(
    admin: httpx2.AsyncClient, db: Database, size: int, count: int
) -> None:
    chatter = {"uses": "test.chatter", "with": {"size": size, "count": count}}
    run_id = await start(admin, chatter)
    await until_run(admin, run_id, "succeeded")

    [(kept, size)] = await rows(
        db, "SELECT count(*), sum(length(message)) FROM run_log WHERE run_id = %s", run_id
    )
    assert kept <= MAX_LINES + 1
    assert size <= MAX_SIZE
    last = await rows(db, "SELECT level, message FROM run_log ORDER BY seq DESC LIMIT 1")
    assert last == [("warning", "the log is full: what follows is left out")]


async def test_a_run_tells_how_far_it_has_come(
    admin: httpx2.AsyncClient, bench: Bench, db: Database
) -> None:
    run_id = await start(admin, {"id": "s", "uses": "test.slow"})

    async def half() -> bool:
        progress = (await admin.get(f"/runs/{run_id}")).json()["progress"]
        return progress is not None and progress["fraction"] == 0.5

    await until(half, what="the run shows that half of it is done")
    shown = (await admin.get(f"/runs/{run_id}")).json()["progress"]
    assert (shown["step_id"], shown["item"], shown["message"]) == ("s", None, "half of it")
    bench.go.set()
    await until_run(admin, run_id, "succeeded")
    told = await rows(
        db, "SELECT data -> 'fraction' FROM fact WHERE topic = 'run.progress' ORDER BY seq"
    )
    assert told[-1] == (1,)
    assert (0.5,) in told


async def test_lines_are_sent_as_they_come_until_the_run_ends(
    admin: httpx2.AsyncClient, bench: Bench
) -> None:
    run_id = await start(admin, say("a", "first"), {"id": "s", "uses": "test.slow"})
    following = asyncio.create_task(follow(admin, run_id))

    async def heard() -> bool:
        return len(await lines_of(admin, run_id)) == 2

    await until(heard, what="two lines are written")
    bench.go.set()
    events = await asyncio.wait_for(following, PATIENCE)

    logs = [event for event in events if event["event"] == "log"]
    assert [event["data"]["message"] for event in logs] == [
        "first", "half of it is done", "all of it is done",
    ]  # fmt: skip
    assert events[-1] == {"event": "end", "data": {"status": "succeeded"}}
    rest = await follow(admin, run_id, **{"Last-Event-ID": logs[1]["id"]})
    assert [event["data"].get("message") for event in rest] == ["all of it is done", None]
    answer = await admin.get(
        f"/runs/{run_id}/logs", headers={"Accept": "text/event-stream", "Last-Event-ID": "x"}
    )
    assert_problem(answer, status=422)


async def follow(client: httpx2.AsyncClient, run_id: str, **headers: str) -> list[dict[str, Any]]:
    """Return all events that are sent about a run."""
    answer = await client.get(
        f"/runs/{run_id}/logs", headers={"Accept": "text/event-stream", **headers}
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    events: list[dict[str, Json]] = []
    for block in answer.text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields:
            events.append({**fields, "data": json.loads(fields["data"])})
    return events


class Stream:
    """A request whose answer is read while it goes on."""

    def __init__(self, app: FastAPI, path: str, key: str) -> None:
        self.text = ""
        self._asked = False
        headers = [(b"authorization", f"Bearer {key}".encode()), (b"accept", b"text/event-stream")]
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
        }
        self.ended = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._asked:
            await asyncio.Event().wait()
        self._asked = True
        return {"type": "http.request"}

    async def _send(self, message: Any) -> None:
        self.text += message.get("body", b"").decode()

    async def has_said(self, words: str) -> None:
        async def said() -> bool:
            return words in self.text

        await until(said, what=f"the stream says {words!r}")


@pytest.mark.parametrize("ends", [{"status": "disabled"}, {"scopes": ["tasks:read"]}])
async def test_a_stream_ends_with_the_right_to_it(
    app: FastAPI, bench: Bench, agent: AgentOf, admin: httpx2.AsyncClient, ends: dict[str, Json]
) -> None:
    member = await agent("tasks:write", "tasks:run", "runs:read")
    run_id = await start(member.client, {"id": "s", "uses": "test.slow"})
    stream = Stream(app, f"/runs/{run_id}/logs", member.key)
    await stream.has_said("half of it is done")

    assert (await admin.patch(f"/agents/{member.id}", json=ends)).status_code == 200
    bench.go.set()
    async with asyncio.timeout(PATIENCE):
        await stream.ended

    assert "all of it" not in stream.text
    await until_run(admin, run_id, "succeeded")


@pytest.mark.usefixtures("bench")
async def test_the_lines_of_others_are_not_shown(
    agent: AgentOf, admin: httpx2.AsyncClient, client_of: ClientOf
) -> None:
    stranger = await agent("runs:read")
    run_id = await start(admin, say("a"))
    await until_run(admin, run_id, "succeeded")

    assert_problem(await stranger.client.get(f"/runs/{run_id}/logs"), status=404)
    assert_problem(await client_of().get(f"/runs/{run_id}/logs"), status=401)
    unknown = "0198c2a0-0000-7000-8000-000000000000"
    assert_problem(await admin.get(f"/runs/{unknown}/logs"), status=404)


async def test_lines_lie_in_the_partition_of_their_day(db: Database) -> None:
    [(name, today)] = await rows(
        db,
        "SELECT to_regclass('run_log_' || day)::text, day"
        " FROM to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD') AS day",
    )
    assert name == f"run_log_{today}"
