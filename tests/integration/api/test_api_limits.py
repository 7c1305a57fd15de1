"""How often one may come, how much one may have, and what slow clients get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from calling import (
    NOW,
    TASK,
    Server,
    act,
    assert_problem,
    client_to,
    create,
    make_agent,
    served,
    settings_of,
    started,
)
from ordinaut.api import protocol
from ordinaut.api.limits import _place
from ordinaut.clock import TravelClock
from ordinaut.config import Settings, load_settings
from ordinaut.errors import InvalidInput
from ordinaut.store.database import Database

WRONG = "ord_wrong"


def limited(database_url: str, redis_url: str, **limits: Any) -> Settings:
    return settings_of(database_url, redis_url).model_copy(update=limits)


async def statuses(client: httpx2.AsyncClient, count: int, path: str = "/auth/me") -> list[int]:
    return [(await client.get(path)).status_code for _ in range(count)]


async def test_an_agent_that_asks_too_often_is_told_when_to_come_again(
    db: Database, database_url: str, redis_url: str
) -> None:
    settings = limited(database_url, redis_url, rate_limit="5/minute")
    _, key = await make_agent(db, settings)
    _, other = await make_agent(db, settings)
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        assert await statuses(client, 5) == [200] * 5
        refused = await client.get("/auth/me")

        assert_problem(refused, status=429, code="too_many_requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        async with client_to(app, other) as another:
            assert await statuses(another, 1) == [200]
        assert await statuses(client, 2, "/health/live") == [200, 200]


async def test_all_processes_count_together(
    db: Database, database_url: str, redis_url: str
) -> None:
    settings = limited(database_url, redis_url, rate_limit="6/minute")
    _, key = await make_agent(db, settings)
    async with (
        started(settings, TravelClock(NOW)) as one,
        started(settings, TravelClock(NOW)) as two,
        client_to(one, key) as first,
        client_to(two, key) as second,
    ):
        assert await statuses(first, 3) + await statuses(second, 3) == [200] * 6
        assert await statuses(first, 1) + await statuses(second, 1) == [429] * 2


async def test_a_large_limit_is_taken_by_the_handful_and_not_exceeded(
    db: Database, database_url: str, redis_url: str
) -> None:
    settings = limited(database_url, redis_url, rate_limit="250/hour")
    _, key = await make_agent(db, settings)
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        found = await statuses(client, 253)

        assert found == [200] * 250 + [429] * 3


async def test_agents_are_let_in_while_redis_is_away(db: Database, database_url: str) -> None:
    settings = limited(database_url, "redis://127.0.0.1:1/0", rate_limit="2/minute")
    _, key = await make_agent(db, settings)
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        assert await statuses(client, 5) == [200] * 5


@pytest.mark.parametrize("redis_is", ["there", "away"])
async def test_failed_sign_ins_of_an_address_are_limited(
    db: Database, database_url: str, redis_url: str, redis_is: str
) -> None:
    url = redis_url if redis_is == "there" else "redis://127.0.0.1:1/0"
    settings = limited(database_url, url, sign_in_limit="3/minute")
    _, key = await make_agent(db, settings)
    clock = TravelClock(NOW)
    async with started(settings, clock) as app, client_to(app, key) as good:
        assert await statuses(good, 1) == [200]
        async with client_to(app, WRONG) as bad:
            assert await statuses(bad, 5) == [401, 401, 401, 429, 429]
            for path, body in (
                ("/auth/token", {"api_key": WRONG}),
                ("/auth/refresh", {"refresh_token": "orr_wrong"}),
            ):
                refused = await bad.post(path, json=body)
                assert_problem(refused, status=429)
                assert int(refused.headers["retry-after"]) >= 1
        # Who signed in before is not shut out by the failures of others at his address.
        app.state.services.auth.forget()
        assert await statuses(good, 1) == [200]


async def test_sign_ins_that_succeed_are_not_counted(
    db: Database, database_url: str, redis_url: str
) -> None:
    settings = limited(database_url, redis_url, sign_in_limit="2/minute")
    _, key = await make_agent(db, settings)
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        for _ in range(5):
            await act(client, "/auth/token", api_key=key)
            app.state.services.auth.forget()
            assert await statuses(client, 1) == [200]


@pytest.mark.parametrize(
    ("trusted", "header", "counted"),
    [
        ((), "203.0.113.9", "127.0.0.1"),
        (("127.0.0.1",), "203.0.113.9", "203.0.113.9"),
        (("127.0.0.0/8",), "203.0.113.9", "203.0.113.9"),
        (("127.0.0.1",), "198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the first one is a claim
        (("127.0.0.1", "203.0.113.9"), "198.51.100.1, 203.0.113.9", "198.51.100.1"),
        (("10.0.0.1",), "203.0.113.9", "127.0.0.1"),
    ],
)
async def test_who_is_in_front_is_believed_only_when_it_is_trusted(
    db: Database,
    database_url: str,
    redis_url: str,
    trusted: tuple[str, ...],
    header: str,
    counted: str,
) -> None:
    settings = limited(database_url, redis_url, trusted_proxies=trusted)
    _, key = await make_agent(db, settings, "admin")
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        await client.post("/agents", json={"name": "a"}, headers={"X-Forwarded-For": header})

        [entry, *_] = (await client.get("/audit")).json()["items"]
        assert entry["address"] == counted


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:aaaa::1", "20010db800010002/64"),
        ("2001:db8:1:2:bbbb::1", "20010db800010002/64"),
        ("", "unknown"),
        ("/run/socket", "/run/socket"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, place: str) -> None:
    assert _place(address) == place.lstrip("0")


@pytest.mark.parametrize(
    ("name", "value"),
    [("RATE_LIMIT", "fast"), ("SIGN_IN_LIMIT", "0/minute"), ("TRUSTED_PROXIES", "proxy.local")],
)
def test_limits_that_can_not_be_used_are_refused(name: str, value: str) -> None:
    environ = {"DATABASE_URL": "x", "REDIS_URL": "y", "ORDINAUT_SECRET": "x" * 32}
    with pytest.raises(InvalidInput) as refused:
        load_settings({**environ, f"ORDINAUT_{name}": value})
    assert [problem.path for problem in refused.value.problems] == [f"ORDINAUT_{name}"]


async def test_an_agent_has_its_quotas_and_an_administrator_none(
    db: Database, database_url: str, redis_url: str
) -> None:
    quotas = {"quota_tasks": 2, "quota_runs_per_hour": 3, "quota_payload_bytes": 300}
    settings = limited(database_url, redis_url, **quotas)
    scopes = ("tasks:write", "tasks:run", "tasks:read", "events:publish")
    _, key = await make_agent(db, settings, *scopes)
    _, root = await make_agent(db, settings, "admin")
    told = {"topic": "order.paid", "payload": "y" * 300}
    large = TASK | {"payload": TASK["payload"] | {"params": {"x": "y" * 300}}}
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        assert_problem(await client.post("/tasks", json=large), status=413, code="too_large")
        assert_problem(await client.post("/events", json=told), status=413, code="too_large")
        batch = await client.post("/events/batch", json={"events": [{"topic": "a"}, told]})
        assert_problem(batch, status=413, code="too_large")
        task = await create(client)
        too_many = await client.post("/tasks/batch", json={"tasks": [TASK, TASK]})
        assert_problem(too_many, status=429)
        await create(client)
        assert_problem(await client.post("/tasks", json=TASK), status=429)
        patched = await client.patch(f"/tasks/{task['id']}", json={"payload": large["payload"]})
        assert_problem(patched, status=413)
        assert len((await client.get("/tasks")).json()["items"]) == 2

        for _ in range(3):
            await act(client, f"/tasks/{task['id']}/run_now", 202)
        refused = await client.post(f"/tasks/{task['id']}/run_now")
        assert_problem(refused, status=429)
        assert 1 <= int(refused.headers["retry-after"]) <= 3601
        async with client_to(app, root) as admin:
            for _ in range(4):
                await act(admin, f"/tasks/{task['id']}/run_now", 202)
                await create(admin)


async def answer_of(server: Server, *pieces: bytes) -> bytes:
    """Send some pieces and no more, and return what comes until the server hangs up."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(40):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_who_sends_slowly_or_without_end_is_cut_off(
    db: Database, database_url: str, redis_url: str
) -> None:
    settings = limited(database_url, redis_url, body_seconds=1.0)
    _, key = await make_agent(db, settings, "admin")
    head = f"POST /tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n".encode()
    typed = head + b"content-type: application/json\r\n"
    async with served(settings, key) as server, asyncio.TaskGroup() as group:
        nothing = group.create_task(answer_of(server, b""))
        half_a_head = group.create_task(answer_of(server, head))
        half_a_body = group.create_task(
            answer_of(server, typed + b"content-length: 100\r\n\r\n", b'{"title"')
        )
        endless = group.create_task(
            answer_of(server, head, *([b"x-more: " + b"a" * 1000 + b"\r\n"] * 100))
        )
    assert nothing.result() == half_a_head.result() == b""
    assert half_a_body.result().startswith(b"HTTP/1.1 408 ")
    assert b"too large" in endless.result() or endless.result() == b""
    assert protocol.HEAD_SECONDS < 40


SMUGGLED = b"\r\n0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: -1\r\n",
        b"content-length: +5\r\n",
        b"content-length: 0x5\r\n",
        b"content-length: 99999999999999999999999\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding: chunked\n\r\n",
        b"x: a\r\n folded\r\n",
        b"x: a\0b\r\n",
        b": nameless\r\n",
    ],
)
async def test_a_message_whose_end_is_in_doubt_is_refused(
    shared_server: Server, headers: bytes
) -> None:
    head = b"POST /auth/token HTTP/1.1\r\nhost: x\r\n" + headers

    answer = await answer_of(shared_server, head + SMUGGLED)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.fixture(scope="module")
async def shared_server(shared_url: str) -> AsyncIterator[Server]:
    async with served(settings_of(shared_url), "") as server:
        yield server
