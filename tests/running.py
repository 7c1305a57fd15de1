"""Runs over HTTP: start one of some steps, and wait until it stands where it should."""

from __future__ import annotations

from typing import Any

import httpx2

from calling import act, create
from ordinaut.model import Json
from working import until


def say(step_id: str, text: str = "hi") -> Json:
    return {"id": step_id, "uses": "core.log", "with": {"message": text}}


async def start(client: httpx2.AsyncClient, *steps: Json, **payload: Json) -> str:
    """Store a task with these steps, run it, and return the id of the run."""
    given = {"params": {"n": 7}, "pipeline": list(steps), **payload}
    task = await create(client, payload=given, backoff_seconds=0.01)
    run: dict[str, str] = await act(client, f"/tasks/{task['id']}/run_now", 202)
    return run["id"]


async def until_run(client: httpx2.AsyncClient, run_id: str, *statuses: str) -> dict[str, Any]:
    """Wait until a run has one of these statuses, and return it."""
    run: dict[str, Any] = {}

    async def there() -> bool:
        nonlocal run
        run = (await client.get(f"/runs/{run_id}")).json()
        return run["status"] in statuses

    await until(there, what=f"run {run_id} is {' or '.join(statuses)}")
    return run
