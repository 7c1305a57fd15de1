"""What an attacker sends, case by case (tests/data/abuse.json), and how it is refused.

A case names who sends what (``as``, ``method``, ``path``, ``headers`` and a body) and what has
to come of it: a status, an answer that is ``empty``, that ``says`` or leaves ``unsaid`` a text.
``token`` and ``shape`` make a bad access token of a good one. ``$parts`` is a long text in short.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import FastAPI

from calling import NOW, TASK, act, client_to, create, make_agent, settings_of, started
from ordinaut.api.browser import COOKIE
from ordinaut.clock import TravelClock
from ordinaut.config import Settings
from ordinaut.errors import ToolError
from ordinaut.store import agents
from ordinaut.store.database import Database
from ordinaut.testing import extension_kit

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "abuse.json").read_text()
)
OVER_HTTP = [case for case in CASES if case["group"] != "ssrf"]
OUTWARD = [case for case in CASES if case["group"] == "ssrf"]
OWNED = ("tasks:read", "tasks:write", "tasks:run", "runs:read", "runs:write", "secrets:read",
         "secrets:write", "webhooks:read", "webhooks:write", "events:read", "events:publish",
         "system:read")  # fmt: skip
SIGNERS = {
    "RS": rsa.generate_private_key(65537, 2048),
    "PS": rsa.generate_private_key(65537, 2048),
    "ES": ec.generate_private_key(ec.SECP256R1()),
    "Ed": ed25519.Ed25519PrivateKey.generate(),
}


@dataclass(frozen=True)
class Scene:
    """Who is there, what they have, and a token that is good."""

    clients: dict[str, httpx2.AsyncClient]
    names: dict[str, str]
    access: str
    signing_key: bytes
    db: Database


@pytest.fixture(scope="module")
async def scene(shared_url: str, shared_db: Database) -> AsyncIterator[Scene]:
    limits: dict[str, Any] = {"rate_limit": "", "sign_in_limit": ""}
    # One address of this machine, for the webhook that is there; the attacks name others.
    limits["webhook_allow_networks"] = ("127.0.0.99/32",)
    settings = settings_of(shared_url).model_copy(update=limits)
    members = {
        "root": ("admin",),
        "owner": OWNED,
        "other": OWNED,
        "person": OWNED,
        "reader": ("tasks:read",),
        "clerk": ("agents:admin", "tasks:read"),
    }
    made = {
        name: await make_agent(shared_db, settings, *scopes) for name, scopes in members.items()
    }
    async with started(settings, TravelClock(NOW)) as app:
        clients = {name: client_to(app, key) for name, (_, key) in made.items()}
        clients["nobody"] = client_to(app)
        owner = clients["owner"]
        task = (await create(owner))["id"]
        run = (await act(owner, f"/tasks/{task}/run_now", 202))["id"]
        await owner.put("/secrets/TOKEN", json={"value": "the owner's"})
        calendar = {"name": "holidays", "definition": {"dates": ["2027-01-01"]}}
        assert (await owner.post("/calendars", json=calendar)).status_code == 201
        webhook = {"url": "http://127.0.0.99/", "topics": ["order.*"]}
        hook = (await act(owner, "/webhooks", 201, **webhook))["id"]
        delivery = (await act(owner, f"/webhooks/{hook}/test", 202))["id"]
        key = made["root"][1]
        tokens = await act(clients["nobody"], "/auth/token", api_key=key)
        names = {name: agent_id for name, (agent_id, _) in made.items()}
        names |= {"task": task, "run": run, "webhook": hook, "delivery": delivery}
        names |= {"key": key, "KEY": key.upper(), "key:-9": key[:-9],
                  "agent": names["root"], "access": tokens["access_token"],
                  "refresh": tokens["refresh_token"]}  # fmt: skip
        names |= await signed_in(app, made["person"][1])
        names |= await ended_sessions(app, shared_db, settings, clients["root"])
        yield Scene(clients, names, names["access"], agents.derive(settings, "jwt"), shared_db)
        for client in clients.values():
            await client.aclose()


async def signed_in(app: FastAPI, key: str) -> dict[str, str]:
    """Return the cookie and the token of a browser, and the token of another one."""
    cookie, csrf = await sign_in(app, key)
    _, other = await sign_in(app, key)
    return {"cookie": cookie, "csrf": csrf, "csrf:-1": csrf[:-1], "other_csrf": other}


async def ended_sessions(
    app: FastAPI, db: Database, settings: Settings, root: httpx2.AsyncClient
) -> dict[str, str]:
    """Return what does not serve any more: a cookie signed out, one whose key is revoked."""
    agent_id, key = await make_agent(db, settings)
    ended, csrf = await sign_in(app, key)
    keyless, _ = await sign_in(app, key)
    async with client_to(app) as client:
        headers = {"Cookie": f"{COOKIE}={ended}", "X-CSRF-Token": csrf}
        assert (await client.delete("/auth/session", headers=headers)).status_code == 204
    shown = (await root.get(f"/agents/{agent_id}/keys")).json()["items"][0]
    assert (await root.delete(f"/agents/{agent_id}/keys/{shown['id']}")).status_code == 204
    return {"ended": ended, "keyless": keyless, "revoked": key}


async def sign_in(app: FastAPI, key: str) -> tuple[str, str]:
    """Sign a browser in; return its cookie and its token."""
    async with client_to(app) as client:
        answer = await client.post("/auth/session", json={"api_key": key})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].partition(";")[0].removeprefix(f"{COOKIE}=")
    return cookie, answer.json()["csrf_token"]


def filled(value: Any, names: dict[str, str]) -> Any:
    """Write out what a case says in short: ``{task}`` and ``$parts``."""
    if isinstance(value, dict) and "$parts" in value:
        return "".join(filled(text, names) * count for text, count in value["$parts"])
    if isinstance(value, dict):
        return {key: filled(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, names) for item in value]
    if isinstance(value, str):
        for name, known in names.items():
            value = value.replace(f"{{{name}}}", known)
    return value


def forged(case: dict[str, Any], scene: Scene) -> str:
    """Return the access token of a case."""
    if "shape" in case:
        shape = filled(case["shape"], {})
        return str(shape).format(*scene.access.split("."))
    how = case["token"]
    claims = jwt.decode(scene.access, options={"verify_signature": False}) | how.get("claims", {})
    claims = {name: value for name, value in claims.items() if name not in how.get("without", ())}
    sign, key = how.get("sign", "HS256"), how.get("key")
    algorithm = {"none": None, "good": "HS256", "HS256-raw": "HS256"}.get(sign, sign)
    header = jwt.get_unverified_header(scene.access) | {"alg": algorithm} | how.get("header", {})
    signer: Any = scene.signing_key if key is None else key.encode()
    signer = SIGNERS.get(sign[:2], signer)
    return encode(claims, header, algorithm, signer)


def encode(claims: Any, header: dict[str, Any], algorithm: str | None, key: Any) -> str:
    """Sign a token as nobody should: whatever its header says."""
    parts = [
        jwt.utils.base64url_encode(json.dumps(part).encode()).decode()
        for part in (
            header | ({"alg": algorithm} if algorithm and "alg" not in header else {}),
            claims,
        )
    ]
    if algorithm is None:
        return f"{parts[0]}.{parts[1]}."
    signed = ".".join(parts).encode()
    signer = jwt.get_algorithm_by_name(algorithm)
    prepared = key if isinstance(key, bytes) else signer.prepare_key(key)
    return (
        f"{parts[0]}.{parts[1]}."
        + jwt.utils.base64url_encode(signer.sign(signed, prepared)).decode()
    )


def body_of(case: dict[str, Any], names: dict[str, str]) -> bytes | None:
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    if "raw" in case:
        return str(filled(case["raw"], names)).encode()
    if "raw_repeat" in case:
        opening, first, middle, closing, last = case["raw_repeat"]
        return f"{opening * first}{filled(middle, names)}{closing * last}".encode()
    if "set_steps" in case:
        step = {"uses": "core.transform", "with": {"value": 1}}
        return json.dumps(TASK | {"payload": {"pipeline": [step] * case["set_steps"]}}).encode()
    body = case.get("body")
    if body is None:
        return None
    if body in ("TASK", "TASK+"):
        body = TASK | case.get("set", {})
    return json.dumps(filled(body, names)).encode()


def request_of(case: dict[str, Any], scene: Scene, client: httpx2.AsyncClient) -> httpx2.Request:
    names, body = scene.names, body_of(case, scene.names)
    headers = {name: filled(value, names) for name, value in case.get("headers", {}).items()}
    if body is not None and case.get("content_type", "json"):
        headers["Content-Type"] = case.get("content_type", "application/json")
    if "token" in case or "shape" in case:
        headers["Authorization"] = f"Bearer {forged(case, scene)}"
    if case.get("authorization"):
        headers["Authorization"] = filled(case["authorization"], names)
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    path = filled(case.get("path", "/auth/me"), names)
    request = client.build_request(case.get("method", "GET"), path, content=body, headers=raw)
    if "raw_path" in case:  # as it is: the client would tidy it up
        request.url = httpx2.URL("http://test", raw_path=case["raw_path"].encode())
    return request


async def footprint(db: Database) -> Any:
    """All that a refused request may have changed."""
    tables = ("task", "task_definition", "schedule", "due_work", "agent", "api_key", "secret",
              "calendar", "event", "revoked_token", "webhook", "webhook_secret",
              "webhook_delivery", "browser_session")  # fmt: skip
    counts = ", ".join(f"(SELECT (count(*), md5(string_agg(t::text, '' ORDER BY t::text)))::text "
                       f"FROM {table} AS t)" for table in tables)  # fmt: skip
    # When a key was used last may change.
    counts = counts.replace("FROM api_key AS t", "FROM (SELECT id, revoked_at FROM api_key) AS t")
    async with db.connection() as tx:
        return await (await tx.execute(f"SELECT {counts}".encode())).fetchone()


@pytest.mark.parametrize(
    "case", OVER_HTTP, ids=[f"{case['group']}-{case['case']:.60}" for case in OVER_HTTP]
)
async def test_an_attack_over_http_is_refused_and_changes_nothing(
    case: dict[str, Any], scene: Scene
) -> None:
    client = scene.clients[case.get("as", "nobody")]
    before = await footprint(scene.db)

    answer = await client.send(request_of(case, scene, client))

    wanted = case["status"] if isinstance(case["status"], list) else [case["status"]]
    assert answer.status_code in wanted, answer.text[:500]
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
    if case.get("empty") and answer.status_code == 200:
        assert answer.json()["items"] == []
    assert case.get("says", "") in answer.text
    if "unsaid" in case:
        assert case["unsaid"] not in answer.headers["x-request-id"]
    if "leads" in case:
        assert answer.headers["location"] == case["leads"]
    if "without" in case:
        assert not [name for name in answer.headers if name.startswith(case["without"])]
    assert "Traceback" not in answer.text
    assert scene.signing_key.hex() not in answer.text
    assert await footprint(scene.db) == before


@pytest.mark.parametrize(
    "case", [c for c in OUTWARD if "url" in c], ids=lambda case: f"{case['case']!a:.60}"
)
async def test_a_webhook_that_leads_inward_is_refused(case: dict[str, Any], scene: Scene) -> None:
    before = await footprint(scene.db)

    answer = await scene.clients["owner"].post(
        "/webhooks", json={"url": case["url"], "topics": ["order.*"]}
    )

    assert answer.status_code == 422, answer.text
    assert [error["path"] for error in answer.json()["errors"]] == ["url"]
    assert await footprint(scene.db) == before


class Redirecting(BaseHTTPRequestHandler):
    """Sends everybody to where the path says."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("location", bytes.fromhex(self.path[1:]).decode())
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return None


@pytest.mark.parametrize("case", OUTWARD, ids=[f"{case['case']!a:.60}" for case in OUTWARD])
async def test_a_request_inward_is_refused(case: dict[str, Any]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        options = {"allow_hosts": f"127.0.0.1:{server.server_port}"}
        url = case.get("url")
        if url is None:
            path = case["redirect"].encode().hex()
            url = f"http://127.0.0.1:{server.server_port}/{path}"
        async with extension_kit("http", config=options) as kit:
            with pytest.raises(ToolError) as refused:
                await kit.call("http.request", {"url": url, "timeout_seconds": 20})
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    # Names that lead nowhere on this machine may lead to it on another, and are refused there.
    assert not refused.value.retryable or "can not be resolved" in refused.value.message
