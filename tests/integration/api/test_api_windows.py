"""Event windows over HTTP: declared, changed, and what becomes of what is open."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from calling import act, create, rows
from ordinaut.scheduler import windows
from ordinaut.scheduler.triggers import Triggers
from ordinaut.store.database import Database

WINDOW = {"debounce_seconds": 50, "max_wait_seconds": 600, "by": "payload.id"}
LISTENING = {"schedule_kind": "event", "schedule_expr": "order.paid", "event_window": WINDOW}
PIPELINE = {"pipeline": [{"uses": "core.log", "with": {"message": "${events[*].payload.id}"}}]}


async def held(db: Database, client: httpx2.AsyncClient, **fields: Any) -> str:
    """Store a task that holds an event; return its address."""
    made = await create(client, **{**LISTENING, "payload": PIPELINE, **fields})
    # The API's clock stands still in these tests, and events have the database's time.
    await rows(db, "UPDATE schedule SET decided_until = '2000-01-01' RETURNING 1")
    await act(client, "/events", 202, topic="order.paid", payload={"id": 7})
    while await Triggers(db).run_once():
        pass
    assert await rows(db, "SELECT key FROM event_window") == [("7",)]
    return f"/tasks/{made['id']}"


async def test_a_window_is_stored_and_shown(admin: httpx2.AsyncClient) -> None:
    made = await create(admin, **LISTENING)
    without = await create(admin, **{**LISTENING, "event_window": None})

    assert made["event_window"] == WINDOW
    assert (await admin.get(f"/tasks/{made['id']}")).json()["event_window"] == WINDOW
    assert without["event_window"] is None


async def test_a_window_is_added_changed_and_taken_away(admin: httpx2.AsyncClient) -> None:
    made = await create(admin, **{**LISTENING, "event_window": None})
    for window in ({"batch_seconds": 5}, WINDOW, None):
        answer = await admin.patch(f"/tasks/{made['id']}", json={"event_window": window})
        assert answer.json()["event_window"] == window
    wrong = await admin.patch(f"/tasks/{made['id']}", json={"event_window": {"max_events": 3}})
    assert wrong.status_code == 422


@pytest.mark.parametrize(
    "change",
    [
        {"event_window": {"batch_seconds": 5}},
        {"event_window": None},
        {"schedule_expr": "order.lost"},
    ],
)
async def test_a_change_of_what_a_task_listens_for_starts_it_with_what_is_open(
    db: Database, admin: httpx2.AsyncClient, change: dict[str, Any]
) -> None:
    task = await held(db, admin)

    assert (await admin.patch(task, json=change)).status_code == 200
    await windows.close(db)

    [run] = (await admin.get("/runs")).json()["items"]
    assert [event["payload"] for event in run["events"]] == [{"id": 7}]
    assert run["event"]["window"]["ended_by"] == "change"


async def test_another_change_leaves_what_is_open(db: Database, admin: httpx2.AsyncClient) -> None:
    task = await held(db, admin)

    await admin.patch(task, json={"title": "another"})
    await windows.close(db)

    assert await rows(db, "SELECT ended_by FROM event_window") == [(None,)]


@pytest.mark.parametrize(("action", "verdict"), [("cancel", "canceled"), ("delete", "canceled")])
async def test_what_is_open_of_a_task_that_is_over_gets_its_verdict_at_once(
    db: Database, admin: httpx2.AsyncClient, action: str, verdict: str
) -> None:
    task = await held(db, admin)

    if action == "delete":
        await admin.delete(task)
    else:
        await act(admin, f"{task}/cancel")
    closed = await windows.close(db)

    assert (closed.runs, closed.skipped) == (0, 1)
    assert await rows(db, "SELECT verdict FROM occurrence") == [(verdict,)]
