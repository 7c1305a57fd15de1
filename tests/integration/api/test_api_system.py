"""The shape of the API itself: rules, documentation, headers, health, the unexpected."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import Any

import httpx2
import psycopg
import pytest
import structlog
from fastapi import FastAPI

from calling import (
    NOW,
    TASK,
    AgentOf,
    ClientOf,
    act,
    assert_problem,
    client_to,
    create,
    settings_of,
    started,
)
from ordinaut.api import docs
from ordinaut.api.routing import Route
from ordinaut.api.scopes import KNOWN
from ordinaut.clock import TravelClock
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.model import uuid7
from ordinaut.store.database import Database

# DESIGN 8: what answers without a credential, and nothing else.
PUBLIC = {
    ("get", "/health"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("post", "/auth/token"),
    ("post", "/auth/refresh"),
    ("post", "/auth/session"),
}


def operations(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    """Return every operation that the OpenAPI document describes."""
    return [
        (method, path, operation)
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    ]


def concrete(path: str) -> str:
    """Return an address for a path of the document."""
    return re.sub(r"\{\w*id\}", str(uuid7()), path).replace("{name}", "none")


# Any credential passes the door here; what is asked about decides who may go on.
ANYONE = {
    ("get", "/auth/me"),
    ("post", "/auth/revoke"),
    ("get", "/auth/session"),
    ("delete", "/auth/session"),
    ("post", "/runs/{run_id}/approve"),
    ("post", "/runs/{run_id}/reject"),
}


async def test_every_route_has_a_rule_with_known_scopes_or_is_on_the_public_list(
    app: FastAPI,
) -> None:
    rules = {
        (method, path): operation["security"][0]["bearer"] if "security" in operation else None
        for method, path, operation in operations(app)
    }
    assert {place for place, scopes in rules.items() if scopes is None} == PUBLIC
    assert {place for place, scopes in rules.items() if scopes == []} <= ANYONE
    assert {scope for scopes in rules.values() for scope in scopes or ()} <= set(KNOWN)
    assert len(rules) > 40


async def test_every_route_refuses_who_has_no_credential(app: FastAPI, client_of: ClientOf) -> None:
    for method, path, _ in operations(app):
        if (method, path) in PUBLIC:
            continue
        answer = await client_of().request(method.upper(), concrete(path), json={})
        assert (answer.status_code, method, path) == (401, method, path)


async def test_every_route_refuses_an_agent_without_its_scope(app: FastAPI, agent: AgentOf) -> None:
    nobody = await agent()
    for method, path, _ in operations(app):
        if (method, path) in PUBLIC | ANYONE:
            continue
        answer = await nobody.client.request(method.upper(), concrete(path), json={})
        assert (answer.status_code, method, path) == (403, method, path)


async def test_every_route_lets_in_who_holds_its_scope(app: FastAPI, agent: AgentOf) -> None:
    for method, path, operation in operations(app):
        scopes = operation.get("security", [{"bearer": []}])[0]["bearer"]
        if not scopes or path == "/events/stream":
            continue
        member = await agent(scopes[-1])
        answer = await member.client.request(method.upper(), concrete(path), json={})
        assert answer.status_code not in (401, 403, 405, 500), (method, path, answer.text)


async def test_all_routes_read_json_strictly(app: FastAPI) -> None:
    described = [route for route in app.routes if getattr(route, "include_in_schema", False)]
    assert len(described) > 40
    assert {type(route) for route in described} == {Route}


async def test_unknown_paths_and_methods_are_problems_too(client_of: ClientOf) -> None:
    assert_problem(await client_of().get("/nope"), status=404, code="not_found")
    assert_problem(
        await client_of().delete("/schedules/preview"), status=405, code="method_not_allowed"
    )


async def test_a_path_of_its_own_is_not_taken_for_a_thing_of_that_name(
    admin: httpx2.AsyncClient,
) -> None:
    refused = await admin.put("/tasks/batch", json={})
    asked = await admin.options("/tasks/00000000-0000-0000-0000-000000000000")

    assert_problem(refused, status=405)
    assert refused.headers["allow"] == "POST"
    assert asked.headers["allow"] == "DELETE, GET, PATCH, PUT"
    assert (await admin.get("/tasks/batch2")).status_code == 422


async def test_answers_carry_the_closing_headers_and_a_request_id(client_of: ClientOf) -> None:
    given = await client_of().get("/health/live", headers={"X-Request-ID": "abc.1"})
    evil = await client_of().get("/nope", headers={"X-Request-ID": "a b\u00e9".encode()})

    assert given.headers["x-request-id"] == "abc.1"
    assert re.fullmatch(r"[0-9a-f]{17,}", evil.headers["x-request-id"])
    for answer in (given, evil):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "set-cookie" not in answer.headers


async def test_other_origins_are_not_let_in(client_of: ClientOf) -> None:
    answer = await client_of().get("/health/live", headers={"Origin": "https://evil.example"})

    assert "access-control-allow-origin" not in answer.headers


async def test_the_documentation_loads_nothing_from_elsewhere(client_of: ClientOf) -> None:
    for path, (name, media_type) in docs.FILES.items():
        answer = await client_of().get(path)
        assert (answer.status_code, name) == (200, name)
        assert answer.headers["content-type"].startswith(media_type)
        assert answer.headers["content-security-policy"] == docs.CONTENT_SECURITY_POLICY
        assert not re.search(r"https?://|//[a-z]", answer.text.replace("/* not JSON", ""))
        assert "innerHTML" not in answer.text
    assert (await client_of().get("/openapi.json")).json()["info"]["title"] == "Ordinaut"


async def test_every_operation_says_what_it_does(app: FastAPI) -> None:
    for method, path, operation in operations(app):
        assert operation.get("description"), (method, path)
        good = [status for status in operation["responses"] if status.startswith("2")]
        assert good, (method, path)


async def test_tools_extensions_queue_and_processes_are_shown(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin)
    await act(admin, f"/tasks/{task['id']}/run_now", 202)
    async with db.connection() as tx:
        await tx.execute(
            "INSERT INTO worker (id, host, pid, version, heartbeat_at) VALUES"
            " (%s, 'here', 1, '0.1', %s), (%s, 'there', 2, '0.1', %s - interval '61 s')",
            [uuid7(), NOW, uuid7(), NOW],
        )

    tools = {tool["name"] for tool in (await admin.get("/tools")).json()["items"]}
    assert {"http.request", "core.log"} <= tools
    extensions = {e["id"]: e["state"] for e in (await admin.get("/extensions")).json()["items"]}
    assert extensions["core"] == "started"
    queue = (await admin.get("/queue")).json()
    assert (queue["counts"], queue["total"]) == ({"ready": 1}, 1)
    workers = (await admin.get("/workers")).json()["items"]
    assert [(w["host"], w["state"]) for w in workers] == [("here", "running"), ("there", "lost")]


async def test_health_is_ok_while_the_database_answers(client_of: ClientOf) -> None:
    for path in ("/health", "/health/ready", "/health/live"):
        answer = await client_of().get(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")


async def test_without_a_database_the_api_lives_but_is_not_ready(clock: TravelClock) -> None:
    nowhere = settings_of("postgresql://nobody:secret@127.0.0.1:1/none")
    async with started(nowhere, clock) as app, client_to(app, "ord_x") as client:
        live, ready, tasks = await asyncio.gather(
            client.get("/health/live"), client.get("/health/ready"), client.get("/tasks")
        )

    assert (live.status_code, ready.status_code) == (200, 503)
    assert "PostgreSQL" in ready.json()["checks"]["database"]
    assert "nobody" not in ready.text
    assert_problem(tasks, status=503, code="unavailable")
    assert tasks.headers["retry-after"] == "1"


async def test_the_api_works_again_at_once_when_its_connections_were_cut(
    admin: httpx2.AsyncClient, postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    await asyncio.gather(*(admin.get("/tasks") for _ in range(4)))
    url = postgres_server.url_of("postgres")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [database_url.rpartition("/")[2]],
        )

    answers = await asyncio.gather(*(admin.get("/tasks") for _ in range(4)))

    assert [answer.status_code for answer in answers] == [200] * 4


async def test_an_unexpected_error_says_nothing_about_its_cause(
    app: FastAPI, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch, agent: AgentOf
) -> None:
    member = await agent("admin")

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(app.state.services.auth, "identify", broken)

    with structlog.testing.capture_logs():
        answer = await client_of(member.key).post("/tasks", json=TASK)

    problem = assert_problem(answer, status=500, code="internal")
    assert "42" not in answer.text
    assert problem["instance"] == "/tasks"
    assert answer.headers["x-request-id"]


async def test_refusals_are_logged_with_who_was_refused(
    agent: AgentOf, client_of: ClientOf
) -> None:
    member = await agent("tasks:read")
    with structlog.testing.capture_logs() as lines:
        await client_of("ord_wrong").get("/tasks")
        await member.client.get("/agents")

    refused = [line for line in lines if line["event"] == "http.refused"]
    assert [(line["code"], line["path"], line["agent"]) for line in refused] == [
        ("unauthenticated", "/tasks", None),
        ("forbidden", "/agents", member.id),
    ]
    assert all(line["address"] == "127.0.0.1" for line in refused)
    assert "ord_wrong" not in str(refused)


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_logged_stays_on_its_line(as_json: bool) -> None:
    script = (
        "from ordinaut import telemetry\n"
        f"telemetry.configure(level='info', as_json={as_json}, process='api')\n"
        "telemetry.logger('x').warning('http.refused', path='/a\\nfake line\\x1b[2J\\r')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        timeout=60,
        check=True,
    )
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b[2J" not in done.stderr
    assert b"\r" not in done.stderr
