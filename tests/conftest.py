"""Real servers for the tests: one PostgreSQL and one Valkey for each pytest process.

A test that asks for ``database_url`` or ``db`` gets a database of its own, cloned from one that
was migrated once (about 20 ms). ``ORDINAUT_PG_MAJOR=18`` runs the suite on PostgreSQL 18. What is
marked ``pooled`` runs twice: on PostgreSQL, and through PgBouncer in transaction mode.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
import redis
import structlog

from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.devserver.valkey import EmbeddedValkey
from ordinaut.store import migrate
from ordinaut.store.database import Database
from pooling import ABSENT, PgBouncer, find

TEMPLATE = "template_ordinaut"
KEPT = ("ORDINAUT_PG_MAJOR", "ORDINAUT_PYTHON", "ORDINAUT_CHROMIUM")

# How long an example takes says more about the neighbours of the machine than about us.
hypothesis.settings.register_profile("ordinaut", deadline=None)
hypothesis.settings.load_profile("ordinaut")

# By default structlog draws tracebacks, for seconds, while a transaction is open.
structlog.configure(
    processors=[
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["event", "level"]),
    ]
)

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of whoever runs the tests."""
    for name in os.environ:
        ours = name.startswith(("ORDINAUT_", "PG")) or name in (
            "DATABASE_URL",
            "DATABASE_DIRECT_URL",
            "REDIS_URL",
        )
        if ours and name not in KEPT:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server without durability, for this pytest process."""
    major = os.environ.get("ORDINAUT_PG_MAJOR")
    place = tmp_path_factory.mktemp("postgres") / "data"
    with EmbeddedPostgres(place, major=int(major) if major else None, fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def _admin(postgres_server: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template_database(postgres_server: EmbeddedPostgres, _admin: psycopg.Connection) -> str:
    """The name of a migrated, empty database that others are cloned from."""
    _admin.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate.upgrade(postgres_server.url_of(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(
    postgres_server: EmbeddedPostgres, _admin: psycopg.Connection, template_database: str
) -> Iterator[str]:
    """The address of a migrated database that belongs to this test."""
    name = f"test_{next(_numbers)}"
    _admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield postgres_server.url_of(name)
    _admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database_url(
    postgres_server: EmbeddedPostgres, _admin: psycopg.Connection
) -> Iterator[str]:
    """The address of a database without any table."""
    name = f"empty_{next(_numbers)}"
    _admin.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url_of(name)
    _admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def pooler(
    postgres_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PgBouncer]:
    """PgBouncer in front of the server, in transaction mode."""
    if find() is None:
        pytest.skip(ABSENT)
    with PgBouncer(postgres_server, tmp_path_factory.mktemp("pgbouncer")) as made:
        yield made


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("pooled") and "db" in metafunc.fixturenames:
        metafunc.parametrize("through", ["postgresql", "pgbouncer"])


@pytest.fixture
def through() -> str:
    """What answers on the other side of ``db``."""
    return "postgresql"


@pytest.fixture
async def db(
    database_url: str, through: str, request: pytest.FixtureRequest
) -> AsyncIterator[Database]:
    """The open connection pool to this test's database."""
    pooled = through == "pgbouncer"
    url = request.getfixturevalue("pooler").url_of(database_url) if pooled else database_url
    async with Database(url, pooled=pooled) as database:
        yield database


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A Valkey server without durability, for this pytest process."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey") / "data", fsync=False) as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: EmbeddedValkey) -> str:
    """The address of an empty Redis."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return Path(__file__).parent.parent
