"""The first key of an installation."""

import asyncio

from typer.testing import CliRunner, Result

from ordinaut.cli.main import app
from ordinaut.config import load_settings
from ordinaut.store import agents
from ordinaut.store.database import Database

SECRET = "a secret of the tests, long enough for it"


def bootstrap(database_url: str, *name: str) -> Result:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": "redis://", "ORDINAUT_SECRET": SECRET}
    return CliRunner().invoke(app, ["agent", "bootstrap", *name], env=environ)


async def owner(database_url: str, key: str) -> tuple[str, frozenset[str]]:
    settings = load_settings(
        {"DATABASE_URL": database_url, "REDIS_URL": "redis://", "ORDINAUT_SECRET": SECRET}
    )
    async with Database(database_url, size=2) as db, db.transaction() as tx:
        agent = await agents.bootstrap(
            tx, name="nobody", api_key=key, pepper=agents.pepper(settings)
        )
    return agent.name, agent.scopes


async def test_the_printed_key_is_that_of_an_admin(database_url: str) -> None:
    result = await asyncio.to_thread(bootstrap, database_url)

    assert result.exit_code == 0, result.output
    assert await owner(database_url, result.output.strip()) == ("admin", frozenset({"admin"}))


async def test_a_second_call_adds_a_key(database_url: str) -> None:
    first, second = [
        (await asyncio.to_thread(bootstrap, database_url, "root")).output.strip() for _ in "12"
    ]

    assert first != second
    assert (await owner(database_url, first))[0] == (await owner(database_url, second))[0] == "root"


async def test_an_agent_that_is_no_admin_gets_no_key(database_url: str) -> None:
    async with Database(database_url, size=2) as db, db.transaction() as tx:
        await agents.insert(tx, name="clerk", scopes=("tasks:read",))

    result = await asyncio.to_thread(bootstrap, database_url, "clerk")

    assert result.exit_code == 1
    assert "is no admin" in str(result.exception)
