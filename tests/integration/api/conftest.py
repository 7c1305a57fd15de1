"""The API in this process, on a real database, and clients of it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import httpx2
import psycopg
import pytest
from fastapi import FastAPI

from calling import NOW, AgentOf, ClientOf, Member, client_to, make_agent, settings_of, started
from ordinaut.clock import TravelClock
from ordinaut.config import Settings
from ordinaut.devserver.postgres import EmbeddedPostgres
from ordinaut.store.database import Database


@pytest.fixture
def clock() -> TravelClock:
    """The clock of the API; it stands still until a test moves it."""
    return TravelClock(NOW)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings of an API on this test's database."""
    return settings_of(database_url)


@pytest.fixture
async def app(settings: Settings, clock: TravelClock) -> AsyncIterator[FastAPI]:
    """The application, started."""
    async with started(settings, clock) as made:
        yield made


@pytest.fixture
async def client_of(app: FastAPI) -> AsyncIterator[ClientOf]:
    """Makes clients of the application."""
    opened: list[httpx2.AsyncClient] = []

    def make(credential: str = "") -> httpx2.AsyncClient:
        opened.append(client_to(app, credential))
        return opened[-1]

    yield make
    for client in opened:
        await client.aclose()


@pytest.fixture
def agent(db: Database, settings: Settings, client_of: ClientOf) -> AgentOf:
    """Makes agents with given scopes."""

    async def make(*scopes: str, name: str = "") -> Member:
        agent_id, key = await make_agent(db, settings, *scopes, name=name)
        return Member(agent_id, key, client_of(key))

    return make


@pytest.fixture
async def admin(agent: AgentOf) -> httpx2.AsyncClient:
    """A client that may do everything."""
    return (await agent("admin", name="admin")).client


@pytest.fixture(scope="module")
async def shared_url(
    postgres_server: EmbeddedPostgres, template_database: str
) -> AsyncIterator[str]:
    """One database for all tests of a module that leave nothing behind."""
    name = f"shared_{secrets.token_hex(4)}"
    admin = postgres_server.url_of("postgres")
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
        yield postgres_server.url_of(name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
async def shared_db(shared_url: str) -> AsyncIterator[Database]:
    """The pool to the module's database."""
    async with Database(shared_url) as database:
        yield database


@pytest.fixture(scope="module")
async def shared_admin(shared_url: str, shared_db: Database) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that may do everything in the module's database."""
    settings = settings_of(shared_url)
    _, key = await make_agent(shared_db, settings, "admin", name="admin")
    async with started(settings, TravelClock(NOW)) as app, client_to(app, key) as client:
        yield client
