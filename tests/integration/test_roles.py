"""The roles of processes: what they can do, and above all what they can not."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import errors
from typer.testing import CliRunner

from calling import NOW, act, client_to, create, make_agent, settings_of, started
from ordinaut.cli.main import app as cli
from ordinaut.clock import SystemClock, TravelClock
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.model import uuid7
from ordinaut.plugins.host import ExtensionHost
from ordinaut.scheduler import janitor
from ordinaut.scheduler.janitor import HOLDING, Holding
from ordinaut.store import leaders, roles
from ordinaut.store.database import Database
from running import until_run
from working import worker

PASSWORD = "only-for-a-test"


@pytest.fixture
def role_urls(
    postgres_server: EmbeddedPostgres, database_url: str, _admin: psycopg.Connection
) -> Iterator[tuple[str, str]]:
    """The addresses of this test's database for the roles of application and scheduler."""
    names = (f"app_{secrets.token_hex(4)}", f"scheduler_{secrets.token_hex(4)}")
    for name in names:
        roles.create(postgres_server.url_of("postgres"), name, password=PASSWORD)
    assert roles.grant(database_url, app=names[0], scheduler=names[1]) == names
    database = database_url.rsplit("/", 1)[1]
    app, scheduler = (postgres_server.url_for(name, PASSWORD, database=database) for name in names)
    yield app, scheduler
    with psycopg.connect(database_url) as connection:
        for name in names:
            connection.execute(f"DROP OWNED BY {name}".encode())
    for name in names:
        _admin.execute(f"DROP ROLE {name}".encode())


DENIED_TO_ALL = [
    "UPDATE audit_log SET actor = 'nobody'",
    "DELETE FROM audit_log",
    "TRUNCATE audit_log",
    "INSERT INTO audit_log (seq, actor, action, entity, entity_id) OVERRIDING SYSTEM VALUE "
    "VALUES (1, 'a', 'a', 'a', 'a')",
    "INSERT INTO audit_log (at, actor, action, entity, entity_id) "
    "VALUES (now() - interval '1 day', 'a', 'a', 'a', 'a')",
    "INSERT INTO audit_log (xid, actor, action, entity, entity_id) "
    "VALUES ('5', 'a', 'a', 'a', 'a')",
    "UPDATE audit_seal SET hash = ''",
    "DELETE FROM audit_seal",
    "TRUNCATE audit_seal",
    "UPDATE alembic_version SET version_num = 'x'",
    "CREATE TABLE mine (id integer)",
    "CREATE TEMPORARY TABLE mine (id integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS void LANGUAGE sql AS ''",
    "ALTER TABLE task ADD COLUMN mine text",
    "ALTER TABLE audit_log DISABLE TRIGGER ALL",
    "DROP TABLE task",
    "TRUNCATE task",
    "CREATE INDEX mine ON task (title)",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "CREATE ROLE mine",
    "SET ROLE ordinaut",
    "COPY task TO PROGRAM 'cat'",
    "COPY task FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
]
DENIED_TO_APP = [
    "SELECT * FROM apscheduler_jobs",
    "INSERT INTO apscheduler_jobs VALUES ('x', 1, 'pickle')",
    "INSERT INTO audit_seal VALUES (1, 1, 'x', 'x')",
    "SELECT ensure_partitions('2026-01-01', 1)",
    "SELECT drop_partition('task_run_20260101')",
]


async def test_neither_role_can_do_what_it_need_not(role_urls: tuple[str, str]) -> None:
    app, scheduler = role_urls
    for url, statements in ((app, DENIED_TO_ALL + DENIED_TO_APP), (scheduler, DENIED_TO_ALL)):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for statement in statements:
                try:
                    await connection.execute(statement.encode())
                except errors.InsufficientPrivilege:
                    continue
                raise AssertionError(f"allowed: {statement}")


@pytest.mark.parametrize(
    "name", ["audit_log", "task_run", "task_run_default", "task_run_2026010", "event_20260101;",
             "event_20260101\nx", "EVENT_20260101"]
)  # fmt: skip
async def test_the_lent_right_drops_daily_partitions_alone(
    role_urls: tuple[str, str], name: str
) -> None:
    _, scheduler = role_urls
    async with await psycopg.AsyncConnection.connect(scheduler, autocommit=True) as connection:
        with pytest.raises(errors.InvalidParameterValue):
            await connection.execute("SELECT drop_partition(%s)", (name,))


async def test_the_functions_that_lend_rights_look_into_the_schema_of_their_owner_alone(
    role_urls: tuple[str, str], database_url: str
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        found = await owner.execute(
            "SELECT proname, proconfig FROM pg_proc WHERE prosecdef AND pronamespace = "
            "'public'::regnamespace ORDER BY proname"
        )
        path = ["search_path=public, pg_temp"]
        assert await found.fetchall() == [("drop_partition", path), ("ensure_partitions", path)]


async def test_rights_are_set_again_without_harm(
    role_urls: tuple[str, str], database_url: str
) -> None:
    app, scheduler = (url.split("://")[1].split(":")[0] for url in role_urls)

    for _ in range(2):
        result = await asyncio.to_thread(
            CliRunner().invoke,
            cli,
            ["migrate", "--database-url", database_url, "--app-role", app,
             "--scheduler-role", scheduler],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert f"rights were set for {app} and {scheduler}" in result.output

    async with await psycopg.AsyncConnection.connect(role_urls[0], autocommit=True) as connection:
        with pytest.raises(errors.InsufficientPrivilege):
            await connection.execute("DELETE FROM audit_log")


async def test_without_the_roles_nothing_is_granted(database_url: str) -> None:
    assert roles.grant(database_url, app="no_such_role", scheduler="nor_this") == ()


async def test_the_api_and_a_worker_do_their_work_with_the_rights_of_the_application(
    db: Database, role_urls: tuple[str, str]
) -> None:
    app_url, _ = role_urls
    settings = settings_of(app_url)
    _, key = await make_agent(db, settings, "admin")
    host = ExtensionHost(settings)
    async with (
        started(settings, TravelClock(NOW)) as app,
        client_to(app, key) as client,
        host,
        worker(app_url, host.tools),
    ):
        assert (await client.put("/secrets/A", json={"value": "a secret"})).status_code == 200
        assert (await client.post("/agents", json={"name": "other"})).status_code == 201
        tokens = await act(client, "/auth/token", api_key=key)
        await act(client, "/auth/refresh", refresh_token=tokens["refresh_token"])
        task = await create(client)
        for action in ("pause", "resume"):
            await act(client, f"/tasks/{task['id']}/{action}")
        run = await act(client, f"/tasks/{task['id']}/run_now", 202)
        await until_run(client, run["id"], "succeeded")
        assert len((await client.get("/audit")).json()["items"]) >= 6
        assert (await client.delete(f"/tasks/{task['id']}")).status_code == 204


async def test_the_leader_keeps_house_with_the_rights_of_the_scheduler(
    db: Database, role_urls: tuple[str, str]
) -> None:
    _, url = role_urls
    settings = settings_of(url)
    clock = TravelClock(SystemClock().now())
    async with db.transaction() as tx:
        lease = timedelta(minutes=10)
        epoch = await leaders.seize(tx, "housekeeping", holder=uuid7(), lease=lease)
        await tx.execute("SELECT ensure_partitions((now() - interval '100 days')::date, 2)")
    assert epoch is not None
    async with Database(url) as scheduler:
        HOLDING.set(Holding(scheduler, settings, clock, epoch))
        clock.move(timedelta(days=3))
        for name, _ in janitor.JOBS:
            await getattr(janitor, name.split(":")[1])()
        async with scheduler.connection() as tx:
            found = await tx.execute(
                "SELECT count(*) FILTER (WHERE relname = to_char(now() + interval '8 days', "
                "'\"task_run_\"YYYYMMDD')), count(*) FILTER (WHERE relname = "
                "to_char(now() - interval '99 days', '\"task_run_\"YYYYMMDD')) FROM pg_class"
            )
            assert await found.fetchone() == (1, 0)
