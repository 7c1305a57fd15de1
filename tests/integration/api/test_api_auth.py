"""Who gets in, as whom, how far, and for how long."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest

from calling import (
    AgentOf,
    ClientOf,
    act,
    assert_problem,
    client_to,
    make_agent,
    rows,
    settings_of,
    started,
)
from ordinaut.api.auth import CACHE_SECONDS
from ordinaut.clock import TravelClock
from ordinaut.config import Settings
from ordinaut.model import uuid7
from ordinaut.store import agents
from ordinaut.store.database import Database


async def sign_in(client: httpx2.AsyncClient, key: str) -> dict[str, Any]:
    """Exchange a key for tokens."""
    tokens: dict[str, Any] = await act(client, "/auth/token", api_key=key)
    return tokens


async def test_a_key_serves_directly_and_through_tokens(
    agent: AgentOf, client_of: ClientOf
) -> None:
    member = await agent("tasks:read", name="reader")

    tokens = await sign_in(client_of(), member.key)

    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 900)
    for credential in (member.key, tokens["access_token"]):
        me = (await client_of(credential).get("/auth/me")).json()
        assert me == {"id": member.id, "name": "reader", "scopes": ["tasks:read"]}


async def test_nobody_gets_in_without_a_valid_credential(
    agent: AgentOf, client_of: ClientOf
) -> None:
    member = await agent("admin")
    basic = base64.b64encode(f"{member.id}:{member.key}".encode()).decode()
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {member.id}",
        f"Bearer {member.key}x",
        f"Bearer {member.key[:-1]}",
        f"Bearer {member.key} {member.key}",
        f"Basic {basic}",
        member.key,
        "Bearer ord_",
        "Bearer \u00e9\u00e9",
        "Bearer " + "x" * 5000,
    ):
        headers = {} if header is None else {"Authorization": header.encode()}
        answer = await client_of().get("/tasks", headers=headers)
        assert_problem(answer, status=401, code="unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_word_bearer_may_be_written_in_any_case(
    agent: AgentOf, client_of: ClientOf
) -> None:
    member = await agent()

    answer = await client_of().get("/auth/me", headers={"Authorization": f"bEARER {member.key}"})

    assert answer.status_code == 200


async def test_a_key_is_stored_as_its_keyed_hash_alone(agent: AgentOf, db: Database) -> None:
    member = await agent()

    [(prefix, digest)] = await rows(db, "SELECT prefix, digest FROM api_key")

    assert member.key.startswith(prefix)
    assert (len(prefix), len(digest)) == (agents.SHOWN, 32)
    assert member.key.encode() not in bytes(digest)


async def test_the_last_use_of_a_key_is_noted_once_a_minute(
    agent: AgentOf, db: Database, clock: TravelClock
) -> None:
    member = await agent()
    seen = []
    for _ in range(3):
        await member.client.get("/auth/me")
        [(used,)] = await rows(db, "SELECT last_used_at FROM api_key")
        seen.append(used)
        clock.move(timedelta(seconds=40))

    assert seen[0] == seen[1] < seen[2]


def forge(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """Put a token together by hand."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


async def test_forged_tokens_are_refused(
    agent: AgentOf, client_of: ClientOf, settings: Settings, clock: TravelClock
) -> None:
    member = await agent("admin")
    key = agents.derive(settings, "jwt")
    good = jwt.decode(
        (await sign_in(client_of(), member.key))["access_token"],
        options={"verify_signature": False},
    )
    signed = jwt.encode(good, key, "HS256")
    assert (await client_of(signed).get("/auth/me")).status_code == 200
    header, body, signature = signed.split(".")
    other_body = forge({}, good | {"sub": str(uuid7())}).split(".")[1]
    raw_secret = settings.secret.get_secret_value()
    past = int((clock.now() - timedelta(seconds=1)).timestamp())
    forged = {
        "no algorithm": forge({"alg": "none"}, good),
        "no algorithm in capitals": forge({"alg": "NONE"}, good),
        "signature cut off": f"{header}.{body}.",
        "signature of another": f"{header}.{body}.{signature[::-1]}",
        "another body": f"{header}.{other_body}.{signature}",
        "the secret itself as key": jwt.encode(good, raw_secret, "HS256"),
        "the pepper as key": jwt.encode(good, agents.pepper(settings), "HS256"),
        "HS512": jwt.encode(good, key * 2, "HS512"),
        "key in the header": jwt.encode(good, b"k" * 32, "HS256", headers={"jwk": {"k": "a2s"}}),
        "file as key id": jwt.encode(good, b"0" * 32, "HS256", headers={"kid": "../../dev/zero"}),
        "expired": jwt.encode(good | {"exp": past}, key, "HS256"),
        "another issuer": jwt.encode(good | {"iss": "evil"}, key, "HS256"),
        "another audience": jwt.encode(good | {"aud": "other"}, key, "HS256"),
        "subject that is no id": jwt.encode(good | {"sub": "admin"}, key, "HS256"),
        "subject that does not exist": jwt.encode(good | {"sub": str(uuid7())}, key, "HS256"),
        "expiry as text": jwt.encode(good | {"exp": "never"}, key, "HS256"),
        "expiry beyond all times": jwt.encode(good | {"exp": 10**30}, key, "HS256"),
        **{
            f"without {name}": jwt.encode(
                {k: v for k, v in good.items() if k != name}, key, "HS256"
            )
            for name in ("exp", "iat", "iss", "aud", "sub", "jti")
        },
        "not a token": "a.b.c",
        "empty parts": "..",
    }
    for case, token in forged.items():
        answer = await client_of(token).get("/auth/me")
        assert (answer.status_code, case) == (401, case)


async def test_a_token_can_not_claim_more_than_its_agent_has(
    agent: AgentOf, client_of: ClientOf, settings: Settings
) -> None:
    member = await agent("tasks:read")
    token = (await sign_in(client_of(), member.key))["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    key = agents.derive(settings, "jwt")

    more = jwt.encode(claims | {"scope": "admin tasks:read"}, key, "HS256")
    less = jwt.encode(claims | {"scope": ""}, key, "HS256")

    assert (await client_of(more).get("/auth/me")).json()["scopes"] == ["tasks:read"]
    assert (await client_of(less).get("/tasks")).status_code == 403


async def test_an_access_token_expires(
    agent: AgentOf, client_of: ClientOf, clock: TravelClock
) -> None:
    member = await agent()
    client = client_of((await sign_in(client_of(), member.key))["access_token"])
    clock.move(timedelta(seconds=899))
    assert (await client.get("/auth/me")).status_code == 200

    clock.move(timedelta(seconds=1))

    assert_problem(await client.get("/auth/me"), status=401)


async def test_a_refresh_token_serves_once(
    agent: AgentOf, client_of: ClientOf, clock: TravelClock
) -> None:
    member = await agent("tasks:read")
    first = await sign_in(client_of(), member.key)
    clock.move(timedelta(minutes=20))

    second = await act(client_of(), "/auth/refresh", refresh_token=first["refresh_token"])

    assert second["refresh_token"] != first["refresh_token"]
    assert (await client_of(second["access_token"]).get("/auth/me")).status_code == 200


async def test_a_refresh_token_used_twice_ends_its_whole_family(
    agent: AgentOf, client_of: ClientOf, clock: TravelClock, db: Database
) -> None:
    member = await agent()
    stolen = (await sign_in(client_of(), member.key))["refresh_token"]
    current = await act(client_of(), "/auth/refresh", refresh_token=stolen)
    assert (await client_of(current["access_token"]).get("/auth/me")).status_code == 200

    again = await client_of().post("/auth/refresh", json={"refresh_token": stolen})

    assert_problem(again, status=401)
    next_one = {"refresh_token": current["refresh_token"]}
    assert (await client_of().post("/auth/refresh", json=next_one)).status_code == 401
    clock.move(timedelta(seconds=CACHE_SECONDS))
    assert (await client_of(current["access_token"]).get("/auth/me")).status_code == 401
    noted = await rows(db, "SELECT count(*) FROM audit_log WHERE action = 'auth.refresh_reused'")
    assert noted == [(1,)]
    assert (await client_of(member.key).get("/auth/me")).status_code == 200


async def test_tokens_are_not_refreshed_for_ever(
    db: Database, database_url: str, clock: TravelClock
) -> None:
    day = 86_400
    settings = settings_of(database_url).model_copy(
        update={"refresh_token_seconds": 10 * day, "session_seconds": 25 * day}
    )
    _, key = await make_agent(db, settings)
    async with started(settings, clock) as app, client_to(app) as client:
        tokens = await sign_in(client, key)
        for _ in range(3):
            clock.move(timedelta(days=8))
            tokens = await act(client, "/auth/refresh", refresh_token=tokens["refresh_token"])
        clock.move(timedelta(days=1) - timedelta(seconds=60))
        last = await act(client, "/auth/refresh", refresh_token=tokens["refresh_token"])
        assert last["expires_in"] == 60
        clock.move(timedelta(seconds=61))

        refused = await client.post("/auth/refresh", json={"refresh_token": last["refresh_token"]})
        assert_problem(refused, status=401)
        async with client_to(app, last["access_token"]) as member:
            assert_problem(await member.get("/auth/me"), status=401)
        assert (await sign_in(client, key))["expires_in"] == settings.access_token_seconds


async def test_a_refresh_token_expires(
    agent: AgentOf, client_of: ClientOf, clock: TravelClock
) -> None:
    tokens = await sign_in(client_of(), (await agent()).key)
    clock.move(timedelta(days=14))

    answer = await client_of().post(
        "/auth/refresh", json={"refresh_token": tokens["refresh_token"]}
    )

    assert_problem(answer, status=401)


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
async def test_a_revoked_token_is_refused_by_every_process(
    which: str, agent: AgentOf, client_of: ClientOf, settings: Settings, clock: TravelClock
) -> None:
    member = await agent()
    tokens = await sign_in(client_of(), member.key)
    async with started(settings, clock) as other, client_to(other, tokens["access_token"]) as far:
        assert (await far.get("/auth/me")).status_code == 200

        await act(member.client, "/auth/revoke", 204, token=tokens[which])

        assert (await client_of(tokens["access_token"]).get("/auth/me")).status_code == 401
        clock.move(timedelta(seconds=CACHE_SECONDS))
        assert (await far.get("/auth/me")).status_code == 401
    renewed = await client_of().post(
        "/auth/refresh", json={"refresh_token": tokens["refresh_token"]}
    )
    assert renewed.status_code == (401 if which == "refresh_token" else 200)


async def test_tokens_of_others_can_not_be_revoked(agent: AgentOf, client_of: ClientOf) -> None:
    victim, attacker = await agent("tasks:read"), await agent("tasks:read")
    tokens = await sign_in(client_of(), victim.key)

    for which in ("access_token", "refresh_token"):
        await attacker.client.post("/auth/revoke", json={"token": tokens[which]})

    assert (await client_of(tokens["access_token"]).get("/auth/me")).status_code == 200
    await act(client_of(), "/auth/refresh", refresh_token=tokens["refresh_token"])


async def test_a_disabled_agent_is_out_and_back_in_when_enabled(
    admin: httpx2.AsyncClient, agent: AgentOf, client_of: ClientOf
) -> None:
    member = await agent("tasks:read")
    tokens = await sign_in(client_of(), member.key)
    address = f"/agents/{member.id}"

    await admin.patch(address, json={"status": "disabled"})

    for credential in (member.key, tokens["access_token"]):
        assert (await client_of(credential).get("/auth/me")).status_code == 401
    assert (await client_of().post("/auth/token", json={"api_key": member.key})).status_code == 401
    await admin.patch(address, json={"status": "active"})
    assert (await member.client.get("/auth/me")).status_code == 200
