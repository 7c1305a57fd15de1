"""A planted secret is found nowhere: not in a table, a stream, a log or an answer."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis.asyncio as redis

import working
from calling import NOW, TASK, act, client_to, create, make_agent, settings_of, started
from ordinaut.clock import TravelClock
from ordinaut.model import Json
from ordinaut.store.database import Database
from queueing import rows
from relaying import relaying
from running import until_run

PLAIN = "canary7f3a9b2c41d8e65f0a7c3b9d2e"
ODD = 'kanari "äß/+&=%' + PLAIN[::-1]
HALVES = [half for text in (PLAIN, PLAIN[::-1]) for half in (text[:12], text[-12:])]


def spellings() -> list[bytes]:
    """How the secrets would look; what they begin with may stand at any place of a Base64 text."""
    found = [half.encode() for half in HALVES]
    found += [half.encode().hex().encode() for half in HALVES]
    for half in HALVES:
        for shift in range(3):
            inner = base64.b64encode(bytes(shift) + half.encode())[4:-4]
            found.append(inner)
    return found


def assert_nowhere(where: str, text: bytes) -> None:
    leaks = [needle for needle in spellings() if needle in text]
    if leaks:
        at = text.index(leaks[0])
        raise AssertionError(f"{where}: {leaks[0]!r} in …{text[max(0, at - 400) : at + 100]!r}…")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back all that came, as text, as JSON or with an error, as the path says."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    lengths = [int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length")]
    seen = head + (await reader.readexactly(lengths[0]) if lengths else b"")
    path = lines[0].split(" ")[1]
    status = "500 Oh no" if path.startswith("/fail") else "200 OK"
    body, kind = seen, "text/plain; charset=latin-1"
    if path.startswith("/json"):
        text = seen.decode("latin-1")
        body, kind = json.dumps({"seen": text, text: [text]}).encode(), "application/json"
    answer = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    echoed = "".join(f"x-echo-{n}: {line}\r\n" for n, line in enumerate(lines) if line)
    writer.write(f"{answer}{echoed}connection: close\r\n\r\n".encode("latin-1") + body)
    await writer.drain()
    writer.close()


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def call(step_id: str, url: str, **arguments: Json) -> Json:
    given = {"method": "POST", "url": url, **arguments}
    return {"id": step_id, "uses": "http.request", "with": given, "on_error": "continue",
            "max_retries": 0}  # fmt: skip


def use(step_id: str, tool: str, **arguments: Json) -> Json:
    return {"id": step_id, "uses": tool, "with": arguments, "on_error": "continue",
            "max_retries": 0}  # fmt: skip


def pipeline(url: str, other: str) -> list[Json]:
    plain, odd = "${secrets.PLAIN}", "${secrets.ODD}"
    return [
        call(
            "everywhere",
            f"{url}/text/{plain}",
            headers={"X-Token": plain, "X-Long": f"{'x' * 300}{plain}"},
            query={"token": odd, "again": plain},
            json={"deep": [{"token": odd, "again": plain}]},
            auth={"basic": {"username": "me", "password": odd}},
        ),
        call("as_json", f"{url}/json", form={"token": odd}, auth={"bearer": plain}),
        call("fails", f"{url}/fail/{plain}", body=f"{'y' * 3000}{plain}"),
        call("unreachable", f"http://127.0.0.1:1/{plain}?token={plain}"),
        call("bad_url", f"ftp://{plain}@example.invalid/"),
        call("bad_argument", url, follow_redirects=plain),
        call("no_host", f"http://{plain}.invalid/"),
        use("said", "core.log", message=f"the token is {odd} {plain}", level="error"),
        use("passed", "core.transform", value={"a": [plain, odd]}),
        use("searched", "core.transform", value=odd, expression="abs(@)"),
        use("asserted", "core.assert", condition=f"{plain}", message="holds"),
        use("published", "event.publish", topic="canary.said", payload={"token": plain, "b": odd}),
        use("started", "task.run", task_id=other, params={"token": plain, "b": odd}),
        use("refused", "core.assert", condition="", message=f"no {plain}"),
        use("computed", "core.transform", value="${abs(secrets.PLAIN)}"),
        {"id": "fetched", "uses": "http.request", "with": {"url": f"{url}/text"}},
        {"id": "last", "uses": "core.assert", "max_retries": 0,
         "with": {"condition": False, "message": f"{odd} {plain}"}},
    ]  # fmt: skip


async def every_row(db: Database) -> AsyncIterator[tuple[str, bytes]]:
    tables = await rows(
        db,
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
        "AND relnamespace = 'public'::regnamespace",
    )
    for (table,) in tables:
        for (row,) in await rows(db, f'SELECT t::text FROM "{table}" AS t'):
            yield f"table {table}", str(row).encode()


async def every_key(url: str) -> AsyncIterator[tuple[str, bytes]]:
    async with redis.Redis.from_url(url) as client:
        async for key in client.scan_iter():
            match await client.type(key):
                case b"stream":
                    found: Any = await client.xrange(key)
                case b"hash":
                    found = await client.hgetall(key)
                case b"zset":
                    found = await client.zrange(key, 0, -1)
                case b"set":
                    found = await client.smembers(key)
                case b"list":
                    found = await client.lrange(key, 0, -1)
                case _:
                    found = await client.get(key)
            yield f"redis {key!r}", repr((key, found)).encode()


async def every_answer(
    client: httpx2.AsyncClient, task: str, runs: list[str]
) -> AsyncIterator[tuple[str, bytes]]:
    paths = ["/tasks", f"/tasks/{task}", f"/tasks/{task}/occurrences", "/runs", "/runs/stats",
             "/events", "/events/topics", "/audit", "/secrets", "/secrets/PLAIN", "/queue",
             "/workers", "/extensions"]  # fmt: skip
    for run in runs:
        paths += [f"/runs/{run}", f"/runs/{run}/logs"]
    for path in paths:
        answer = await client.get(path, params={})
        assert answer.status_code == 200, (path, answer.text)
        yield path, answer.content


async def test_a_planted_secret_is_found_nowhere(
    db: Database,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = settings_of(database_url, redis_url)
    options = {"http_allow_private": True, "log_level": "debug", "redis_url": redis_url}
    options["secret"] = settings.secret.get_secret_value()
    _, key = await make_agent(db, settings, "admin")
    log = tmp_path / "worker.log"
    async with (
        started(settings, TravelClock(NOW)) as app,
        client_to(app, key) as client,
        relaying(db, redis_url),
        echoing() as url,
    ):
        for name, value in (("PLAIN", PLAIN), ("ODD", ODD)):
            assert (await client.put(f"/secrets/{name}", json={"value": value})).is_success
        other = (await create(client, title="other"))["id"]
        steps = pipeline(url, other)
        task = (await create(client, title="canary", payload={"pipeline": steps}))["id"]
        listener = await create(
            client, schedule_kind="event", schedule_expr="canary.said", timezone=None,
            payload={"pipeline": TASK["payload"]["pipeline"], "output": "${event}"},
        )  # fmt: skip
        assert listener["status"] == "active"
        with working.process(database_url, log, **options):
            run = (await act(client, f"/tasks/{task}/run_now", 202))["id"]
            ended = await until_run(client, run, "succeeded", "failed")
            begun = next(s for s in ended["steps"] if s["id"] == "started")
            assert begun["status"] == "succeeded", begun
            inner = begun["output"]["run_id"]
            await until_run(client, inner, "succeeded", "failed")
        dry = await client.post(f"/tasks/{task}/dry_run")

        # The secrets did go out, came back, and were seen.
        by_id = {step["id"]: step for step in ended["steps"]}
        assert "[secret]" in json.dumps(by_id["everywhere"]["output"])
        assert by_id["fetched"]["status"] == "succeeded"
        assert by_id["last"]["error"]["message"] == "[secret] [secret]"
        assert "***" in dry.text

        assert_nowhere("dry run", dry.content)
        async for where, text in every_answer(client, task, [run, inner]):
            assert_nowhere(where, text)
        async for where, text in every_row(db):
            assert_nowhere(where, text)
        async for where, text in every_key(redis_url):
            assert_nowhere(where, text)
    assert log.stat().st_size > 0
    assert_nowhere("the worker's log", log.read_bytes())
    assert_nowhere("the API's log", caplog.text.encode())


def test_the_search_would_find_it() -> None:
    for text in (PLAIN, ODD, f"x{PLAIN[:12]}", base64.b64encode(f"a{PLAIN}".encode()).decode()):
        with pytest.raises(AssertionError):
            assert_nowhere("here", text.encode())
