"""Access tokens by asymmetric keys, their rotation, and tokens of other issuers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import SecretStr

from calling import (
    NOW,
    act,
    assert_problem,
    client_to,
    make_agent,
    rows,
    settings_of,
    started,
)
from ordinaut.api import issuers
from ordinaut.api.tokens import TokenKeys
from ordinaut.clock import TravelClock
from ordinaut.config import Issuer, Settings, load_settings
from ordinaut.errors import InvalidInput
from ordinaut.store import chain, secrets
from ordinaut.store.database import Database

RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> str:
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    text: bytes = key.private_bytes(*form)
    return text.decode()


def public_pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def keyed(settings: Settings, *keys: str) -> Settings:
    return settings.model_copy(update={"jwt_keys": SecretStr("\n".join(keys)) if keys else None})


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (ED, "EdDSA")])
async def test_tokens_are_signed_with_the_first_key(
    db: Database, database_url: str, key: Any, algorithm: str
) -> None:
    settings = keyed(settings_of(database_url), pem(key))
    _, api_key = await make_agent(db, settings, "tasks:read")
    async with started(settings, TravelClock(NOW)) as app, client_to(app) as client:
        token = (await act(client, "/auth/token", api_key=api_key))["access_token"]
        async with client_to(app, token) as member:
            assert (await member.get("/auth/me")).status_code == 200

    header = jwt.get_unverified_header(token)
    assert (header["alg"], header["kid"]) == (algorithm, TokenKeys(settings).current.id)
    jwt.decode(token, key.public_key(), [algorithm], audience="ordinaut",
               options={"verify_exp": False, "verify_iat": False})  # fmt: skip


async def test_keys_are_rotated_without_a_token_that_fails(db: Database, database_url: str) -> None:
    base = settings_of(database_url)
    _, api_key = await make_agent(db, base, "tasks:read")
    steps = [
        keyed(base),  # HS256 with what is derived from the secret
        keyed(base, pem(RSA)),
        keyed(base, pem(RSA), pem(ED)),  # the new one is known everywhere before it signs
        keyed(base, pem(ED), pem(RSA)),
        keyed(base, pem(ED), public_pem(RSA)),
    ]
    tokens: list[str] = []
    for settings in steps:
        async with started(settings, TravelClock(NOW)) as app, client_to(app) as client:
            tokens.append((await act(client, "/auth/token", api_key=api_key))["access_token"])
            for token in tokens:
                async with client_to(app, token) as member:
                    assert (await member.get("/auth/me")).status_code == 200
    assert [jwt.get_unverified_header(token)["alg"] for token in tokens] == [
        "HS256", "RS256", "RS256", "EdDSA", "EdDSA",
    ]  # fmt: skip

    async with started(keyed(base, pem(ED)), TravelClock(NOW)) as app:
        for token, status in zip(tokens, (200, 401, 401, 200, 200), strict=True):
            async with client_to(app, token) as member:
                assert (await member.get("/auth/me")).status_code == status


async def test_the_public_key_is_no_secret_to_sign_with(db: Database, database_url: str) -> None:
    settings = keyed(settings_of(database_url), pem(RSA))
    _, api_key = await make_agent(db, settings)
    async with started(settings, TravelClock(NOW)) as app, client_to(app) as client:
        token = (await act(client, "/auth/token", api_key=api_key))["access_token"]
        claims = jwt.decode(token, options={"verify_signature": False})
        header = jwt.get_unverified_header(token) | {"alg": "HS256"}
        signer = jwt.get_algorithm_by_name("HS256")
        parts = [jwt.utils.base64url_encode(json.dumps(p).encode()) for p in (header, claims)]
        signed = b".".join(parts)
        signature = signer.sign(signed, public_pem(RSA).encode())
        forged = signed + b"." + jwt.utils.base64url_encode(signature)
        async with client_to(app, forged.decode()) as thief:
            assert_problem(await thief.get("/auth/me"), status=401)


@pytest.mark.parametrize(
    "text",
    [
        "no key",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(rsa.generate_private_key(65537, 1024)),
        pem(RSA).replace("MII", "XXX"),
    ],
    ids=["nothing", "another curve", "a short one", "a broken one"],
)
def test_keys_that_can_not_be_used_are_refused_without_being_shown(
    database_url: str, text: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        TokenKeys(keyed(settings_of(database_url), text))
    assert refused.value.problems[0].path == "ORDINAUT_JWT_KEYS"
    assert text[40:80] not in str(refused.value.problems) or len(text) < 40


# --- Other issuers --------------------------------------------------------------------------


class Provider:
    """An identity provider: keys at an address, which counts how often it is asked."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {}
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                text = json.dumps({"keys": [provider.shown(kid) for kid in provider.keys]})
                self.send_response(200)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        self.thread = Thread(target=self.server.serve_forever)
        self.thread.start()

    def shown(self, kid: str) -> dict[str, Any]:
        algorithm, key = self.keys[kid]
        found = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
        return dict(found) | {"kid": kid, "alg": algorithm, "use": "sig"}

    def token(self, kid: str, *, key: Any = None, alg: str = "", **claims: Any) -> str:
        algorithm, own = self.keys.get(kid, ("RS256", RSA))
        at = int(NOW.timestamp())
        given = {"iss": "https://idp.example", "aud": "ordinaut", "sub": "user 1", "iat": at,
                 "exp": at + 300, "jti": "x"} | claims  # fmt: skip
        given = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(given, key or own, alg or algorithm, headers={"kid": kid})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    made.keys["k1"] = ("RS256", RSA)
    yield made
    made.close()


def trusting(settings: Settings, provider: Provider, **changes: Any) -> Settings:
    given = {"issuer": "https://idp.example", "audience": "ordinaut", "jwks_uri": provider.url,
             "algorithms": ("RS256", "EdDSA")} | changes  # fmt: skip
    return settings.model_copy(update={"issuers": (Issuer(**given),), "sign_in_limit": ""})


async def test_another_issuers_token_is_that_of_the_agent_with_its_subject(
    db: Database, database_url: str, provider: Provider
) -> None:
    settings = trusting(settings_of(database_url), provider)
    _, root = await make_agent(db, settings, "admin")
    clock = TravelClock(NOW)
    async with (
        started(settings, clock) as app,
        client_to(app, root) as admin,
        client_to(app, provider.token("k1")) as member,
    ):
        assert_problem(await member.get("/auth/me"), status=401)  # nobody has this subject
        body = {"name": "user", "scopes": ["tasks:read"],
                "subject": "https://idp.example|user 1"}  # fmt: skip
        made = await admin.post("/agents", json=body)
        assert made.status_code == 201, made.text
        again = await admin.post("/agents", json=body | {"name": "another"})
        assert_problem(again, status=409, code="conflict")

        me = await member.get("/auth/me")
        assert me.json() == {"id": made.json()["id"], "name": "user", "scopes": ["tasks:read"]}
        assert (await member.get("/tasks")).status_code == 200
        assert (await member.get("/agents")).status_code == 403

        clock.move(timedelta(seconds=3))
        disabled = {"status": "disabled"}
        await admin.patch(f"/agents/{made.json()['id']}", json=disabled)
        assert_problem(await member.get("/auth/me"), status=401)
        await admin.patch(f"/agents/{made.json()['id']}", json={"status": "active"})
        assert (await member.get("/auth/me")).status_code == 200

        clock.move(timedelta(seconds=320))
        assert_problem(await member.get("/auth/me"), status=401)


async def test_a_revoked_token_of_another_issuer_is_refused_by_every_process(
    db: Database, database_url: str, provider: Provider
) -> None:
    settings = trusting(settings_of(database_url), provider)
    _, root = await make_agent(db, settings, "admin")
    clock = TravelClock(NOW)
    token, other = provider.token("k1"), provider.token("k1", jti="y")
    async with (
        started(settings, clock) as one,
        started(settings, clock) as two,
        client_to(one, root) as admin,
        client_to(one, token) as here,
        client_to(two, token) as there,
        client_to(two, other) as another,
    ):
        body = {"name": "user", "subject": "https://idp.example|user 1"}
        assert (await admin.post("/agents", json=body)).status_code == 201
        assert (await here.get("/auth/me")).status_code == 200
        assert (await there.get("/auth/me")).status_code == 200
        await act(here, "/auth/revoke", 204, token=token)
        clock.move(timedelta(seconds=3))

        assert [(await c.get("/auth/me")).status_code for c in (here, there, another)] == [
            401, 401, 200,
        ]  # fmt: skip


async def test_tokens_that_are_not_what_was_agreed_are_refused(
    db: Database, database_url: str, provider: Provider
) -> None:
    settings = trusting(settings_of(database_url), provider)
    provider.keys["es"] = ("ES256", ec.generate_private_key(ec.SECP256R1()))
    _, root = await make_agent(db, settings, "admin")
    at = int(NOW.timestamp())
    stranger = rsa.generate_private_key(65537, 2048)
    bad = {
        "another issuer": provider.token("k1", iss="https://evil.example"),
        "no issuer": provider.token("k1", iss=None),
        "an issuer that begins alike": provider.token("k1", iss="https://idp.example.evil"),
        "another audience": provider.token("k1", aud="other"),
        "no audience": provider.token("k1", aud=None),
        "no subject": provider.token("k1", sub=None),
        "no expiry": provider.token("k1", exp=None),
        "no beginning": provider.token("k1", iat=None),
        "expired": provider.token("k1", exp=at - 11),
        "not valid yet": provider.token("k1", nbf=at + 60),
        "made in the future": provider.token("k1", iat=at + 60),
        "a key that is nobody's": provider.token("k1", key=stranger),
        "an algorithm that was not agreed": provider.token("es"),
        "an algorithm that was not agreed, with a good key": provider.token("k1", alg="RS512"),
        "a key id that is not there": provider.token("k9"),
        "signed with a guess": provider.token("k1", key="guess" * 8, alg="HS256"),
        "the subject of another issuer": provider.token("k1", sub="evil|user 1"),
    }
    async with started(settings, TravelClock(NOW)) as app, client_to(app, root) as admin:
        body = {"name": "user", "subject": "https://idp.example|user 1"}
        assert (await admin.post("/agents", json=body)).status_code == 201
        async with client_to(app, provider.token("k1")) as good:
            assert (await good.get("/auth/me")).status_code == 200
        for case, token in bad.items():
            async with client_to(app, token) as member:
                answer = await member.get("/auth/me")
                assert answer.status_code == 401, (case, answer.text)


async def test_new_keys_are_fetched_and_made_up_ids_do_not_make_us_ask_for_ever(
    db: Database, database_url: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = trusting(settings_of(database_url), provider)
    _, root = await make_agent(db, settings, "admin")
    async with started(settings, TravelClock(NOW)) as app, client_to(app, root) as admin:
        body = {"name": "user", "subject": "https://idp.example|user 1"}
        await admin.post("/agents", json=body)

        async def status(kid: str) -> int:
            async with client_to(app, provider.token(kid)) as member:
                return (await member.get("/auth/me")).status_code

        assert await status("k1") == 200
        asked = provider.asked
        for number in range(20):
            assert await status(f"made up {number}") == 401
        assert provider.asked <= asked + 1

    # With the cool-down behind us a new key is found.
    monkeypatch.setattr(issuers, "COOL_DOWN", 0.0)
    async with started(settings, TravelClock(NOW)) as app:

        async def status_now(kid: str) -> int:
            async with client_to(app, provider.token(kid)) as member:
                return (await member.get("/auth/me")).status_code

        assert await status_now("k1") == 200
        provider.keys["k2"] = ("EdDSA", ED)
        assert await status_now("k2") == 200
        assert await status_now("k1") == 200


async def test_without_its_keys_an_issuers_tokens_have_to_wait_and_ours_do_not(
    db: Database, database_url: str, provider: Provider
) -> None:
    settings = trusting(settings_of(database_url), provider, jwks_uri="http://127.0.0.1:1/jwks")
    _, root = await make_agent(db, settings, "admin")
    async with started(settings, TravelClock(NOW)) as app, client_to(app, root) as admin:
        began = time.monotonic()
        for _ in range(20):
            async with client_to(app, provider.token("k1")) as member:
                assert_problem(await member.get("/auth/me"), status=503, code="unavailable")
        assert time.monotonic() - began < 20  # it was asked once or a few times, not twenty
        assert (await admin.get("/auth/me")).status_code == 200


@pytest.mark.parametrize(
    "issuer",
    [
        "x",
        "[1]",
        '[{"issuer": "a", "audience": "b", "jwks_uri": "http://idp.example/jwks"}]',
        '[{"issuer": "a", "audience": "b", "jwks_uri": "file:///etc/keys"}]',
        '[{"issuer": "a", "audience": "", "jwks_uri": "https://idp.example/jwks"}]',
        '[{"issuer": "a", "audience": "b", "jwks_uri": "https://x/", "algorithms": ["HS256"]}]',
        '[{"issuer": "a", "audience": "b", "jwks_uri": "https://x/", "algorithms": ["none"]}]',
        '[{"issuer": "a", "audience": "b", "jwks_uri": "https://x/", "algorithms": []}]',
    ],
)
def test_issuers_that_can_not_be_trusted_are_refused(issuer: str) -> None:
    environ = {"DATABASE_URL": "x", "REDIS_URL": "y", "ORDINAUT_SECRET": "x" * 32}
    with pytest.raises(InvalidInput) as refused:
        load_settings({**environ, "ORDINAUT_ISSUERS": issuer})
    assert {problem.path for problem in refused.value.problems} == {"ORDINAUT_ISSUERS"}


async def test_the_secret_is_changed_without_losing_anything(
    db: Database, database_url: str
) -> None:
    old, new = "o" * 40, "n" * 40
    before = settings_of(database_url).model_copy(update={"secret": SecretStr(old)})
    both = before.model_copy(update={"secret": SecretStr(new), "former_secrets": SecretStr(old)})
    after = both.model_copy(update={"former_secrets": None})
    _, used = await make_agent(db, before, "admin")
    _, unused = await make_agent(db, before)
    async with started(before, TravelClock(NOW)) as app, client_to(app, used) as client:
        first = await act(client, "/auth/token", api_key=used)
        assert (await client.put("/secrets/A", json={"value": "the value"})).status_code == 200
        async with db.transaction() as tx:
            await chain.seal(tx, chain.key_of(before))

    async with started(both, TravelClock(NOW)) as app, client_to(app) as client:
        for credential in (used, first["access_token"]):
            async with client_to(app, credential) as member:
                assert (await member.get("/auth/me")).status_code == 200
        second = await act(client, "/auth/refresh", refresh_token=first["refresh_token"])
        await act(client, "/auth/token", api_key=used)
    assert await secrets.rotate(db, secrets.keyring(both)) == 1
    async with db.transaction() as tx:
        assert await chain.seal(tx, chain.key_of(both)) > 0
        assert (await chain.verify(tx, chain.keys_of(both))).problems == []

    async with started(after, TravelClock(NOW)) as app:
        wanted = {used: 200, second["access_token"]: 200, first["access_token"]: 401, unused: 401}
        for credential, status in wanted.items():
            async with client_to(app, credential) as member:
                assert (await member.get("/auth/me")).status_code == status
    async with db.connection() as tx:
        [(owner,)] = await rows(db, "SELECT created_by FROM secret")
        sealed = await secrets.sealed(tx, ["A"], owner=owner)
    assert secrets.keyring(after).open(sealed["A"], owner=owner, name="A") == "the value"
