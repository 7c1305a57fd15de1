"""Calling the API in tests: an application on a real database, its clients, a plain task."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
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


@dataclass(frozen=True)
class Server:
    """An API process of its own."""

    url: str
    key: str
    process: subprocess.Popen[bytes]

    async def stop(self) -> int:
        """End the process and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 30)


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


@asynccontextmanager
async def served(settings: Settings, key: str) -> AsyncIterator[Server]:
    """Start ``ordinaut api`` as it is started in production, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        "PYTHONPATH": ":".join(sys.path),
        "DATABASE_URL": settings.database_url,
        "DATABASE_DIRECT_URL": settings.database_direct_url or "",
        "REDIS_URL": settings.redis_url,
        "ORDINAUT_SECRET": settings.secret.get_secret_value(),
        "ORDINAUT_PORT": str(port),
        "ORDINAUT_EXT_PATHS": ":".join(map(str, settings.ext_paths)),
        "ORDINAUT_BODY_SECONDS": str(settings.body_seconds),
        "ORDINAUT_RATE_LIMIT": settings.rate_limit,
        "ORDINAUT_SIGN_IN_LIMIT": settings.sign_in_limit,
    }
    command = [sys.executable, "-m", "ordinaut", "api"]
    process = await asyncio.to_thread(subprocess.Popen, command, env=env)
    server = Server(f"http://127.0.0.1:{port}", key, process)
    try:
        await _answering(server)
        yield server
    finally:
        assert await server.stop() == 0


async def _answering(server: Server) -> None:
    deadline = time.monotonic() + 60
    async with httpx2.AsyncClient(base_url=server.url) as client:
        while time.monotonic() < deadline:
            assert server.process.poll() is None, "the API ended"
            with suppress(httpx2.TransportError):
                if (await client.get("/health/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
    raise AssertionError("the API did not become ready")
