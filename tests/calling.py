"""Calling the API in tests: an application on a real database, its clients, a plain task."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
from fastapi import FastAPI

from ordinaut.api.main import create_app
from ordinaut.clock import TravelClock
from ordinaut.config import Settings
from ordinaut.store import agents
from ordinaut.store.database import Database

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TASK: dict[str, Any] = {
    "title": "report",
    "schedule_kind": "cron",
    "schedule_expr": "0 9 * * *",
    "timezone": "UTC",
    "payload": {"pipeline": [{"uses": "core.log", "with": {"message": "hi"}}]},
}


@dataclass(frozen=True)
class Member:
    """An agent of a test with its key and a client."""

    id: str
    key: str
    client: httpx2.AsyncClient


AgentOf = Callable[..., Awaitable[Member]]
ClientOf = Callable[..., httpx2.AsyncClient]


def settings_of(database_url: str, redis_url: str = "redis://127.0.0.1:1/0") -> Settings:
    """Settings of an API on a test's database."""
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        secret="not a secret, but long enough for HS256",
        database_pool_size=4,
    )


@asynccontextmanager
async def started(settings: Settings, clock: TravelClock) -> AsyncIterator[FastAPI]:
    """Start the application and stop it."""
    made = create_app(settings, clock=clock)
    async with made.router.lifespan_context(made):
        yield made


def client_to(app: FastAPI, credential: str = "") -> httpx2.AsyncClient:
    """Return a client that carries a credential."""
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url="http://test",
        headers={"Authorization": f"Bearer {credential}"} if credential else {},
    )


async def make_agent(
    db: Database, settings: Settings, *scopes: str, name: str = ""
) -> tuple[str, str]:
    """Store an agent and return its id and key."""
    async with db.transaction() as tx:
        made = await agents.insert(tx, name=name or f"agent {secrets.token_hex(4)}", scopes=scopes)
        pepper = agents.pepper(settings)
        _, key = await agents.add_key(tx, made.id, name="test", pepper=pepper)
    return str(made.id), key


async def create(client: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Store a task and return it."""
    answer = await client.post("/tasks", json=TASK | fields)
    assert answer.status_code == 201, answer.text
    task: dict[str, Any] = answer.json()
    return task


async def act(client: httpx2.AsyncClient, address: str, status: int = 200, **body: Any) -> Any:
    """Post to an address, with a body when there is one, and return the answer."""
    answer = await client.post(address, json=body) if body else await client.post(address)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def rows(db: Database, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return what a query finds."""
    async with db.connection() as tx:
        return await (await tx.execute(query.encode(), values)).fetchall()


def assert_problem(answer: httpx2.Response, *, status: int, code: str = "") -> dict[str, Any]:
    """Check that an answer is problem+json, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["code"] == (code or problem["code"])
    assert {"type", "title", "detail", "instance", "code"} <= problem.keys()
    return problem
