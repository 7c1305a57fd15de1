"""The API in this process, on a real database, and clients of it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
import pytest
from fastapi import FastAPI

from ordinaut.api.main import create_app
from ordinaut.clock import TravelClock
from ordinaut.config import Settings
from ordinaut.store import agents
from ordinaut.store.database import Database

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

ClientOf = Callable[..., Awaitable[httpx2.AsyncClient]]


@pytest.fixture
def clock() -> TravelClock:
    """The clock of the API; it stands still until a test moves it."""
    return TravelClock(NOW)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings of an API on this test's database."""
    return Settings(
        database_url=database_url,
        redis_url="redis://127.0.0.1:1/0",
        secret="not a secret, but long enough for HS256",
        database_pool_size=4,
    )


@pytest.fixture
async def app(settings: Settings, clock: TravelClock) -> AsyncIterator[FastAPI]:
    """The application, started."""
    made = create_app(settings, clock=clock)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def client_of(app: FastAPI) -> AsyncIterator[Callable[[str], httpx2.AsyncClient]]:
    """Makes a client that carries a credential."""
    opened: list[httpx2.AsyncClient] = []

    def make(credential: str = "") -> httpx2.AsyncClient:
        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://test",
            headers={"Authorization": f"Bearer {credential}"} if credential else {},
        )
        opened.append(client)
        return client

    yield make
    for client in opened:
        await client.aclose()


@dataclass(frozen=True)
class Member:
    """An agent of a test with its key and a client."""

    id: str
    key: str
    client: httpx2.AsyncClient


@pytest.fixture
def agent(
    db: Database, settings: Settings, client_of: Callable[[str], httpx2.AsyncClient]
) -> Callable[..., Awaitable[Member]]:
    """Makes agents with given scopes."""

    async def make(*scopes: str, name: str = "") -> Member:
        async with db.transaction() as tx:
            made = await agents.insert(
                tx, name=name or f"agent {secrets.token_hex(4)}", scopes=scopes
            )
            pepper = agents.pepper(settings)
            _, key = await agents.add_key(tx, made.id, name="test", pepper=pepper)
        return Member(str(made.id), key, client_of(key))

    return make


@pytest.fixture
async def admin(agent: Callable[..., Awaitable[Member]]) -> httpx2.AsyncClient:
    """A client that may do everything."""
    member = await agent("admin", name="admin")
    return member.client
