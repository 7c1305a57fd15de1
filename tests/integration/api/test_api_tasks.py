"""Tasks over HTTP: what is stored, what is answered, what is refused."""

from __future__ import annotations

from typing import Any

import httpx2

from ordinaut.store.database import Database

TASK: dict[str, Any] = {
    "title": "report",
    "schedule_kind": "cron",
    "schedule_expr": "0 9 * * *",
    "timezone": "UTC",
    "payload": {"pipeline": [{"uses": "core.log", "with": {"message": "hi"}}]},
}


async def create(client: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Store a task and return it."""
    answer = await client.post("/tasks", json=TASK | fields)
    assert answer.status_code == 201, answer.text
    task: dict[str, Any] = answer.json()
    return task


async def test_a_new_task_is_answered_with_its_address_and_next_occurrence(
    admin: httpx2.AsyncClient,
) -> None:
    answer = await admin.post("/tasks", json=TASK)

    task = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/tasks/{task['id']}"
    assert answer.headers["etag"] == '"1"'
    assert task["next_run_at"] == "2026-11-24T09:00:00Z"
    assert (await admin.get(answer.headers["location"])).json() == task


async def test_creating_a_task_writes_definition_event_and_audit_in_one_go(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin)

    async with db.connection() as tx:
        cursor = await tx.execute(
            "SELECT d.payload, e.topic, a.action, a.actor, a.after ->> 'title'"
            "  FROM task_definition d JOIN event e USING (task_id)"
            "  JOIN audit_log a ON a.entity_id = d.task_id::text WHERE d.task_id = %s",
            [task["id"]],
        )
        rows = await cursor.fetchall()
    assert rows == [(TASK["payload"], "task.created", "task.create", "admin", "report")]
