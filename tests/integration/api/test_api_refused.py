"""Bad input gets a clear answer that points at the field, and nothing is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from calling import TASK, assert_problem, create
from ordinaut.store.database import Database

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "api_refused.json").read_text()
)


def sent(case: dict[str, Any]) -> bytes:
    """Return the body of a case: its bytes, its text, or the task with changes."""
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    if "raw" in case:
        text: str = case["raw"]
        return text.encode()
    kept = {name: value for name, value in TASK.items() if name not in case.get("unset", ())}
    return json.dumps(kept | case.get("set", {})).encode()


async def stored(db: Database) -> int:
    """Count all that a refused task may have left behind."""
    async with db.connection() as tx:
        cursor = await tx.execute(
            "SELECT (SELECT count(*) FROM task) + (SELECT count(*) FROM task_definition)"
            " + (SELECT count(*) FROM schedule) + (SELECT count(*) FROM fact)"
            " + (SELECT count(*) FROM audit_log)"
        )
        row = await cursor.fetchone()
    assert row is not None
    count: int = row[0]
    return count


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
async def test_a_task_that_can_not_be_is_refused_with_its_place(
    case: dict[str, Any], shared_admin: httpx2.AsyncClient, shared_db: Database
) -> None:
    before = await stored(shared_db)
    media_type = case.get("content_type", "application/json")
    headers = {"Content-Type": media_type} if media_type else {}

    answer = await shared_admin.post("/tasks", content=sent(case), headers=headers)

    problem = assert_problem(answer, status=case.get("status", 422))
    errors = problem.get("errors", [])
    if "path" in case:
        assert case["path"] in [error["path"] for error in errors]
    if "code" in case:
        assert case["code"] in {problem["code"], *(error["code"] for error in errors)}
    if "says" in case:
        said = [problem["detail"], *(error["message"] for error in errors)]
        assert any(case["says"] in text for text in said), said
    assert await stored(shared_db) == before


ENDS = (
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999999Z",
)


@pytest.mark.parametrize("since", ENDS)
@pytest.mark.parametrize("until", ENDS)
async def test_times_at_the_ends_of_the_calendar_are_taken_or_refused(
    since: str, until: str, shared_admin: httpx2.AsyncClient
) -> None:
    task = await create(shared_admin)
    address = f"/tasks/{task['id']}"
    between = {"starts_at": since, "ends_at": until}
    rule = {"schedule_kind": "rrule", "schedule_expr": "FREQ=DAILY"}
    answers = [
        await shared_admin.post(
            f"{address}/backfill", json={"since": since, "until": until, "limit": 5}
        ),
        await shared_admin.get(f"{address}/occurrences", params={"after": since, "until": until}),
        await shared_admin.post("/schedules/preview", json=rule | between | {"after": until}),
        await shared_admin.post("/tasks", json=TASK | between),
        await shared_admin.patch(f"{address}?dry_run=true", json=between),
        await shared_admin.get("/runs/stats", params={"since": since}),
        await shared_admin.get("/events", params={"since": since, "until": until}),
        await shared_admin.post(f"{address}/snooze", json={"until": since}),
        await shared_admin.post(f"{address}/snooze", json={"seconds": 366 * 86_400}),
        await shared_admin.post(f"{address}/run_now", json={"run_at": until}),
    ]

    await shared_admin.delete(address)
    assert {answer.status_code for answer in answers} <= {200, 201, 202, 409, 422}
