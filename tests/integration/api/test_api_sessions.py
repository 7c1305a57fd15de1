"""Signing in with a browser: the cookie, what it may, and when it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from calling import NOW, AgentOf, assert_problem, make_agent, rows, settings_of, started
from ordinaut.api.memory import CACHE_SECONDS
from ordinaut.clock import TravelClock
from ordinaut.config import Settings
from ordinaut.store.database import Database

COOKIE = "__Host-ordinaut_session"
HOST = "ordinaut.example"
BrowserOf = Callable[..., httpx2.AsyncClient]


@asynccontextmanager
async def browser(
    app: FastAPI, origin: str = "https://ordinaut.example"
) -> AsyncIterator[httpx2.AsyncClient]:
    """Open a client that keeps cookies, over TLS."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url=origin) as client:
        yield client


@pytest.fixture
async def page(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A browser that nobody has signed in with yet."""
    async with browser(app) as client:
        yield client


async def sign_in(client: httpx2.AsyncClient, key: str) -> dict[str, Any]:
    """Sign in, and send the token with every request from now on."""
    answer = await client.post("/auth/session", json={"api_key": key})
    assert answer.status_code == 200, answer.text
    session: dict[str, Any] = answer.json()
    client.headers["X-CSRF-Token"] = session["csrf_token"]
    return session


async def test_a_browser_signs_in_works_and_signs_out(
    agent: AgentOf, page: httpx2.AsyncClient, db: Database
) -> None:
    member = await agent("tasks:read", name="ana")

    session = await sign_in(page, member.key)

    assert (session["id"], session["name"], session["scopes"]) == (member.id, "ana", ["tasks:read"])
    assert (await page.get("/auth/session")).json() == session
    assert (await page.get("/auth/me")).json()["name"] == "ana"
    assert (await page.get("/tasks")).status_code == 200
    assert_problem(await page.get("/workers"), status=403, code="forbidden")
    value = page.cookies[COOKIE]
    gone = await page.delete("/auth/session")
    assert (gone.status_code, "Max-Age=0" in gone.headers["set-cookie"]) == (204, True)
    assert COOKIE not in page.cookies
    page.cookies.set(COOKIE, value, domain=HOST)
    assert_problem(await page.get("/auth/me"), status=401)
    noted = await rows(
        db, "SELECT action, actor, entity FROM audit_log WHERE action LIKE 'auth.%%' ORDER BY seq"
    )
    assert noted == [("auth.sign_in", "ana", "session"), ("auth.sign_out", "ana", "session")]


async def test_the_cookie_is_closed_and_stored_as_its_keyed_hash_alone(
    agent: AgentOf, page: httpx2.AsyncClient, db: Database
) -> None:
    member = await agent()

    answer = await page.post("/auth/session", json={"api_key": member.key})

    pair, *attributes = answer.headers["set-cookie"].split("; ")
    assert {word.lower() for word in attributes} == {
        "httponly", "secure", "samesite=strict", "path=/", "max-age=43200",
    }  # fmt: skip
    name, _, value = pair.partition("=")
    assert (name, len(value)) == (COOKIE, 43)
    [(digest, row)] = await rows(db, "SELECT digest, s::text FROM browser_session AS s")
    assert len(digest) == 32
    assert value not in row
    assert value not in answer.text
    assert answer.json()["csrf_token"] not in row


@pytest.mark.parametrize(
    ("origin", "secure"),
    [
        ("http://127.0.0.1:8080", False),
        ("http://localhost:8080", False),
        ("http://[::1]:8080", False),
        ("https://localhost:8080", True),
        ("http://ordinaut.example", True),
    ],
)
async def test_only_this_machine_may_do_without_tls(
    app: FastAPI, agent: AgentOf, origin: str, secure: bool
) -> None:
    member = await agent()
    async with browser(app, origin) as client:
        answer = await client.post("/auth/session", json={"api_key": member.key})

        said = answer.headers["set-cookie"]
        assert ("Secure" in said) == secure
        assert said.startswith(f"{COOKIE}=" if secure else "ordinaut_session=")
        value = said.split("=")[1].split(";")[0]
        other = "ordinaut_session" if secure else COOKIE
        cross = await client.get("/auth/me", headers={"Cookie": f"{other}={value}"})
        assert cross.status_code == 401


async def test_a_failed_sign_in_is_on_record_and_sets_nothing(
    page: httpx2.AsyncClient, agent: AgentOf, db: Database
) -> None:
    member = await agent()
    for key in ("ord_no", "", "é", member.key[:-1], member.id):
        answer = await page.post("/auth/session", json={"api_key": key})
        assert_problem(answer, status=422 if key == "" else 401)
        assert "set-cookie" not in answer.headers

    noted = await rows(
        db, "SELECT actor, address FROM audit_log WHERE action = 'auth.sign_in_failed'"
    )
    assert noted == [("anonymous", "127.0.0.1")] * 4


async def test_failed_sign_ins_with_a_browser_are_limited(
    db: Database, database_url: str, clock: TravelClock
) -> None:
    settings = settings_of(database_url).model_copy(update={"sign_in_limit": "2/hour"})
    _, key = await make_agent(db, settings)
    async with started(settings, clock) as app, browser(app) as page, browser(app) as other:
        await sign_in(page, key)
        assert (await page.get("/auth/me")).status_code == 200
        for status in (401, 401, 429):
            answer = await other.post("/auth/session", json={"api_key": "ord_no"})
            assert answer.status_code == status
        assert (await other.post("/auth/session", json={"api_key": key})).status_code == 429
        clock.move(timedelta(seconds=CACHE_SECONDS))
        assert (await page.get("/auth/me")).status_code == 200  # who is in stays in


async def test_what_changes_something_needs_the_token_of_the_session(
    app: FastAPI, agent: AgentOf, page: httpx2.AsyncClient
) -> None:
    member = await agent("events:publish")
    own = (await sign_in(page, member.key))["csrf_token"]
    async with browser(app) as elsewhere:
        other = (await sign_in(elsewhere, member.key))["csrf_token"]
    event = {"topic": "order.paid", "payload": {}}
    del page.headers["X-CSRF-Token"]
    for token in (None, "", "x", other, own[:-1], own + "0", own.upper(), "é".encode()):
        headers: dict[str, Any] = {} if token is None else {"X-CSRF-Token": token}
        refused = await page.post("/events", json=event, headers=headers)
        assert_problem(refused, status=403, code="csrf")
    for header in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://ordinaut.example"},
        {"Origin": "https://ordinaut.example:444"},
        {"Origin": "https://ordinaut.example.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ):
        refused = await page.post("/events", json=event, headers=header | {"X-CSRF-Token": own})
        assert_problem(refused, status=403, code="csrf")

    fitting = {
        "X-CSRF-Token": own,
        "Origin": "https://ordinaut.example",
        "Sec-Fetch-Site": "same-origin",
    }
    assert (await page.post("/events", json=event, headers=fitting)).status_code < 300


async def test_another_site_can_not_sign_a_browser_in(
    agent: AgentOf, page: httpx2.AsyncClient, db: Database
) -> None:
    body = {"api_key": (await agent()).key}

    refused = await page.post("/auth/session", json=body, headers={"Origin": "https://evil"})

    assert_problem(refused, status=403, code="csrf")
    form = await page.post("/auth/session", data=body)
    assert_problem(form, status=415)
    assert await rows(db, "SELECT count(*) FROM browser_session") == [(0,)]


async def test_an_authorization_header_leaves_the_cookie_aside(
    agent: AgentOf, page: httpx2.AsyncClient
) -> None:
    one, other = await agent(name="one"), await agent(name="other")
    await sign_in(page, one.key)

    as_other = {"Authorization": f"Bearer {other.key}"}

    assert (await page.get("/auth/me", headers=as_other)).json()["name"] == "other"
    for header in ("Bearer ord_no", "", "Basic x"):
        refused = await page.get("/auth/me", headers={"Authorization": header})
        assert_problem(refused, status=401)
    assert_problem(await page.get("/auth/session", headers=as_other), status=404)


async def test_a_sign_in_takes_no_value_over_and_ends_the_session_before(
    agent: AgentOf, page: httpx2.AsyncClient
) -> None:
    member = await agent()
    page.cookies.set(COOKIE, "A" * 43, domain=HOST)
    await sign_in(page, member.key)
    first = page.cookies[COOKIE]
    assert first != "A" * 43

    await sign_in(page, member.key)

    second = page.cookies[COOKIE]
    assert second != first
    assert (await page.get("/auth/me")).status_code == 200
    both = {"Cookie": f"{COOKIE}={second}; {COOKIE}={first}"}
    page.cookies.clear()
    assert_problem(await page.get("/auth/me", headers=both), status=401)
    assert_problem(await page.get("/auth/me", headers={"Cookie": f"{COOKIE}={first}"}), status=401)


async def test_a_session_ends_when_it_is_not_used_and_when_it_is_old(
    agent: AgentOf, page: httpx2.AsyncClient, clock: TravelClock, settings: Settings
) -> None:
    member = await agent()
    idle = timedelta(seconds=settings.browser_idle_seconds)
    await sign_in(page, member.key)
    clock.move(idle)
    assert_problem(await page.get("/auth/me"), status=401)

    began = clock.now()
    await sign_in(page, member.key)
    oldest = began + timedelta(seconds=settings.browser_session_seconds)
    while clock.now() + idle * 0.9 < oldest:
        clock.move(idle * 0.9)
        assert (await page.get("/auth/me")).status_code == 200
    clock.move(oldest - clock.now())
    assert_problem(await page.get("/auth/me"), status=401)


@pytest.mark.parametrize("how", ["sign out", "disable", "delete", "revoke key", "key expires"])
async def test_a_session_that_ends_ends_in_every_process(
    how: str,
    admin: httpx2.AsyncClient,
    agent: AgentOf,
    page: httpx2.AsyncClient,
    settings: Settings,
    clock: TravelClock,
) -> None:
    member = await agent("tasks:read")
    made = await admin.post(
        f"/agents/{member.id}/keys",
        json={"expires_at": (NOW + timedelta(minutes=1)).isoformat()},
    )
    key = made.json()
    await sign_in(page, key["api_key"])
    async with started(settings, clock) as other, browser(other) as far:
        far.cookies.set(COOKIE, page.cookies[COOKIE], domain=HOST)
        assert (await far.get("/auth/me")).status_code == 200
        address = f"/agents/{member.id}"
        match how:
            case "sign out":
                ended = await page.delete("/auth/session")
            case "disable":
                ended = await admin.patch(address, json={"status": "disabled"})
            case "delete":
                ended = await admin.delete(address)
            case "revoke key":
                ended = await admin.delete(f"{address}/keys/{key['id']}")
            case _:
                clock.move(timedelta(minutes=1))
                ended = await admin.get("/auth/me")
        assert ended.status_code < 300, ended.text

        page.cookies.set(COOKIE, far.cookies[COOKIE], domain=HOST)
        if how != "key expires":
            assert_problem(await page.get("/auth/me"), status=401)
        clock.move(timedelta(seconds=CACHE_SECONDS))
        assert_problem(await far.get("/auth/me"), status=401)


async def test_a_session_outlives_a_change_of_the_secret(
    db: Database, settings: Settings, clock: TravelClock
) -> None:
    first, second = ("one-secret-that-is-long-enough", "the-one-that-is-in-its-place-now")
    before = settings.model_copy(update={"secret": SecretStr(first)})
    after = {"secret": SecretStr(second), "former_secrets": SecretStr(first)}
    _, key = await make_agent(db, before)
    async with started(before, clock) as app, browser(app) as page:
        session = await sign_in(page, key)
        value = page.cookies[COOKIE]

    async with started(settings.model_copy(update=after), clock) as app, browser(app) as page:
        page.cookies.set(COOKIE, value, domain=HOST)
        now = (await page.get("/auth/session")).json()["csrf_token"]
        assert now != session["csrf_token"]
        page.headers["X-CSRF-Token"] = session["csrf_token"]
        assert (await page.delete("/auth/session")).status_code == 204


async def test_an_idempotency_key_serves_with_a_cookie_and_keeps_no_sign_in(
    agent: AgentOf, page: httpx2.AsyncClient, db: Database
) -> None:
    member = await agent("events:publish")
    once = {"Idempotency-Key": "k"}
    both = once | {"Authorization": f"Bearer {member.key}"}
    body = {"api_key": member.key}
    for path in ("/auth/session", "/auth/token"):
        for _ in range(2):
            assert (await page.post(path, json=body, headers=both)).status_code == 200
    assert await rows(db, "SELECT count(*) FROM idempotency") == [(0,)]
    await sign_in(page, member.key)

    answers = [
        await page.post("/events", json={"topic": "order.paid", "payload": {}}, headers=once)
        for _ in range(2)
    ]

    assert answers[1].headers["idempotency-replayed"] == "true"
    assert answers[0].json() == answers[1].json()
    assert await rows(db, "SELECT count(*) FROM event WHERE topic LIKE '%%order.paid'") == [(1,)]


async def test_the_sign_in_page_leads_back_to_this_host_alone(page: httpx2.AsyncClient) -> None:
    for wanted, kept in (
        ("/ext/events_demo/?a=1&amp=2", "/ext/events_demo/?a=1&amp;amp=2"),
        ('/"><script>', "/&quot;&gt;&lt;script&gt;"),
        ("", ""),
        ("//evil.example", ""),
        ("/\\evil.example", ""),
        ("/\t/evil.example", ""),
        ("https://evil.example", ""),
        ("javascript:alert(1)", ""),
        ("\\/evil.example", ""),
        ("/" + "x" * 2000, ""),
    ):
        answer = await page.get("/signin", params={"next": wanted})
        assert f'data-next="{kept}"' in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("signin.js", "signin.css"):
        assert f'"/signin/{name}"' in answer.text
        assert (await page.get(f"/signin/{name}")).status_code == 200
    assert "<style" not in answer.text
    assert "onclick" not in answer.text


async def test_who_opens_a_page_is_led_to_sign_in(agent: AgentOf, page: httpx2.AsyncClient) -> None:
    html = {"Accept": "text/html,*/*;q=0.8"}
    led = await page.get("/ext/events_demo/?a=1&b=/x", headers=html)
    assert led.status_code == 303
    assert led.headers["location"] == "/signin?next=/ext/events_demo/%3Fa%3D1%26b%3D/x"
    assert "set-cookie" not in led.headers  # there may be one that other sites' links do not send
    shown = await page.get(led.headers["location"])
    assert 'data-next="/ext/events_demo/?a=1&amp;b=/x"' in shown.text

    assert_problem(await page.get("/ext/events_demo/"), status=401)
    assert_problem(await page.get("/tasks", headers=html), status=401)
    assert_problem(await page.post("/ext/events_demo/publish", headers=html), status=401)
    key = html | {"Authorization": "Bearer ord_no"}
    assert_problem(await page.get("/ext/events_demo/", headers=key), status=401)
    stale = html | {"Cookie": f"{COOKIE}={'A' * 43}"}
    dropped = await page.get("/ext/events_demo/", headers=stale)
    assert (dropped.status_code, "Max-Age=0" in dropped.headers["set-cookie"]) == (303, True)


async def test_pages_of_extensions_open_with_a_session(
    agent: AgentOf, page: httpx2.AsyncClient
) -> None:
    html = {"Accept": "text/html"}
    member = await agent("ext:events_demo:routes")
    await sign_in(page, member.key)
    assert "Events demo" in (await page.get("/ext/events_demo/", headers=html)).text
    del page.headers["X-CSRF-Token"]
    refused = await page.post("/ext/events_demo/publish", json={"payload": 1})
    assert_problem(refused, status=403, code="csrf")

    await sign_in(page, (await agent()).key)
    assert_problem(await page.get("/ext/events_demo/", headers=html), status=403, code="forbidden")
