"""Secrets at rest: bound to their row, and written anew with another key."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ordinaut.cli.main import app
from ordinaut.clock import SystemClock
from ordinaut.config import load_settings
from ordinaut.errors import InvalidInput, Undecipherable
from ordinaut.model import uuid7
from ordinaut.store import agents, secrets
from ordinaut.store.database import Database
from ordinaut.store.secrets import Keyring
from queueing import rows
from working import until

SECRET = "a secret of the tests, long enough for it"
OWNER = uuid7()


def key(number: int) -> bytes:
    return bytes([number]) * 32


@given(st.text(min_size=1))
def test_what_was_sealed_opens_again(value: str) -> None:
    keys = Keyring({"a": key(1)})

    sealed = keys.seal(value, owner=OWNER, name="N")

    assert keys.open(sealed, owner=OWNER, name="N") == value
    assert sealed.key_id == "a"


@pytest.mark.parametrize("change", ["name", "owner", "bit", "key", "nothing known", "cut"])
def test_what_was_moved_or_changed_does_not_open(change: str) -> None:
    sealed = Keyring({"a": key(1)}).seal("value", owner=OWNER, name="N")
    cipher = sealed.ciphertext
    if change == "bit":
        cipher = cipher[:20] + bytes([cipher[20] ^ 1]) + cipher[21:]
    if change == "cut":
        cipher = cipher[:5]
    keys = {"key": {"a": key(2)}, "nothing known": {"b": key(1)}}.get(change, {"a": key(1)})

    with pytest.raises(Undecipherable):
        Keyring(keys).open(
            secrets.Sealed("a", cipher),
            owner=uuid7() if change == "owner" else OWNER,
            name="M" if change == "name" else "N",
        )


async def owner_in(db: Database) -> UUID:
    async with db.transaction() as tx:
        return (await agents.insert(tx, name=f"agent {uuid7()}", scopes=())).id


async def put(db: Database, keys: Keyring, owner: UUID, count: int) -> None:
    async with db.transaction() as tx:
        for n in range(count):
            await secrets.put(
                tx, f"S{n}", value=f"value {n}", owner=owner, keys=keys, now=SystemClock().now()
            )


async def opened(db: Database, keys: Keyring, owner: UUID, name: str) -> str:
    async with db.connection() as tx:
        found = await secrets.sealed(tx, [name], owner=owner)
    return keys.open(found[name], owner=owner, name=name)


async def test_rotation_writes_all_with_the_first_key(db: Database) -> None:
    owner = await owner_in(db)
    await put(db, Keyring({"old": key(1)}), owner, secrets.BATCH + 3)
    both = Keyring({"new": key(2), "old": key(1)})

    assert await opened(db, both, owner, "S1") == "value 1"
    assert await secrets.rotate(db, both) == secrets.BATCH + 3
    assert await secrets.rotate(db, both) == 0

    assert await rows(db, "SELECT DISTINCT key_id FROM secret") == [("new",)]
    assert await opened(db, Keyring({"new": key(2)}), owner, f"S{secrets.BATCH}") == (
        f"value {secrets.BATCH}"
    )


async def test_a_rotation_does_not_undo_what_is_put_beside_it(db: Database) -> None:
    owner = await owner_in(db)
    await put(db, Keyring({"old": key(1)}), owner, 1)
    both = Keyring({"new": key(2), "old": key(1)})

    async with db.transaction() as tx:
        await secrets.put(
            tx, "S0", value="newest", owner=owner, keys=Keyring({"old": key(1)}),
            now=SystemClock().now(),
        )  # fmt: skip
        rotating = asyncio.create_task(secrets.rotate(db, both))

        async def blocked() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return await rows(db, query) != [(0,)]

        await until(blocked, what="the rotation waits for the row")
    await rotating

    assert await opened(db, Keyring({"new": key(2)}), owner, "S0") == "newest"


async def test_a_rotation_without_the_old_key_changes_nothing(db: Database) -> None:
    await put(db, Keyring({"old": key(1)}), await owner_in(db), 2)

    with pytest.raises(Undecipherable, match="'old'"):
        await secrets.rotate(db, Keyring({"new": key(2)}))

    assert await rows(db, "SELECT DISTINCT key_id FROM secret") == [("old",)]


async def test_the_command_rotates_with_the_keys_of_the_settings(
    db: Database, database_url: str
) -> None:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": "redis://", "ORDINAUT_SECRET": SECRET}
    owner = await owner_in(db)
    await put(db, secrets.keyring(load_settings(environ)), owner, 2)
    made = CliRunner().invoke(app, ["secrets", "key", "k2"]).output.strip()

    environ["ORDINAUT_SECRETS_KEYS"] = made
    result = await asyncio.to_thread(CliRunner().invoke, app, ["secrets", "rotate"], env=environ)

    assert result.exit_code == 0, result.output
    assert result.output.strip() == "2 secrets were encrypted anew; all are with the key k2"
    keys = secrets.keyring(load_settings(environ))
    assert await opened(db, keys, owner, "S1") == "value 1"
    assert await rows(db, "SELECT DISTINCT key_id FROM secret") == [("k2",)]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ("", "holds no key"),
        ("k1", "is not Base64|has not 32 bytes"),
        ("k1:AAAA", "has not 32 bytes"),
        ("K1:" + "A" * 43 + "=", "an id is"),
        (f"a:{'A' * 43}= a:{'B' * 43}=", "stands once"),
    ],
)
def test_keys_that_can_not_be_used_are_refused_without_being_shown(
    keys: str, complaint: str
) -> None:
    environ = {"DATABASE_URL": "x", "REDIS_URL": "y", "ORDINAUT_SECRET": SECRET}

    with pytest.raises(InvalidInput) as refused:
        load_settings({**environ, "ORDINAUT_SECRETS_KEYS": keys})

    [problem] = refused.value.problems
    assert problem.path == "ORDINAUT_SECRETS_KEYS"
    assert re.search(complaint, problem.message)
    assert "AAAA" not in problem.message


def test_a_setting_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    environ = {"DATABASE_URL": "x", "REDIS_URL": "y"}

    settings = load_settings({**environ, "ORDINAUT_SECRET_FILE": str(tmp_path / "secret")})

    assert settings.secret.get_secret_value() == SECRET
    with pytest.raises(InvalidInput, match="can not be read"):
        load_settings({**environ, "ORDINAUT_SECRET_FILE": str(tmp_path / "none")})
