"""Tasks over HTTP: what is stored, what is answered, what changes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx2

from calling import TASK, create, rows
from ordinaut.api.schemas.tasks import TaskOut
from ordinaut.clock import TravelClock
from ordinaut.store.database import Database


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


async def test_the_answer_has_the_fields_that_the_documentation_promises(
    admin: httpx2.AsyncClient,
) -> None:
    task = await create(admin, labels={"team": "infra"}, starts_at="2027-01-01T00:00:00+02:00")

    assert task.keys() == TaskOut.model_fields.keys()
    TaskOut.model_validate(task)
    assert task["starts_at"] == "2026-12-31T22:00:00Z"
    assert task["timezone"] == "UTC"
    assert (task["status"], task["version"], task["priority"]) == ("active", 1, 5)


async def test_a_task_without_zone_gets_that_of_the_server(admin: httpx2.AsyncClient) -> None:
    answer = await admin.post("/tasks", json={k: v for k, v in TASK.items() if k != "timezone"})

    assert answer.json()["timezone"] == "Europe/Chisinau"
    assert answer.json()["next_run_at"] == "2026-11-24T07:00:00Z"


async def test_creating_a_task_writes_definition_event_and_audit_in_one_go(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin)

    found = await rows(
        db,
        "SELECT d.payload, e.topic, a.action, a.actor, a.after ->> 'title', a.request_id <> ''"
        "  FROM task_definition d JOIN event e USING (task_id)"
        "  JOIN audit_log a ON a.entity_id = d.task_id::text WHERE d.task_id = %s",
        task["id"],
    )
    assert found == [(TASK["payload"], "task.created", "task.create", "admin", "report", True)]


async def test_patch_changes_what_is_given_and_nothing_else(admin: httpx2.AsyncClient) -> None:
    task = await create(admin, description="old", concurrency_key="a")

    answer = await admin.patch(
        f"/tasks/{task['id']}", json={"title": "new", "concurrency_key": None}
    )

    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2"'
    expected = task | {"title": "new", "concurrency_key": None, "version": 2}
    assert answer.json() == expected | {"updated_at": answer.json()["updated_at"]}


async def test_patch_of_the_schedule_computes_the_next_occurrence_anew(
    admin: httpx2.AsyncClient, clock: TravelClock
) -> None:
    task = await create(admin)
    clock.move(timedelta(hours=1))

    answer = await admin.patch(f"/tasks/{task['id']}", json={"schedule_expr": "30 13 * * *"})

    assert answer.json()["next_run_at"] == "2026-11-23T13:30:00Z"


async def test_patch_keeps_the_definitions_of_earlier_versions(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin)
    changed = {"pipeline": [{"uses": "core.log", "with": {"message": "ho"}}]}

    await admin.patch(f"/tasks/{task['id']}", json={"payload": changed})

    query = "SELECT version, payload FROM task_definition WHERE task_id = %s ORDER BY version"
    assert await rows(db, query, task["id"]) == [(1, TASK["payload"]), (2, changed)]


async def test_the_audit_log_holds_what_a_patch_replaced(admin: httpx2.AsyncClient) -> None:
    task = await create(admin)

    await admin.patch(f"/tasks/{task['id']}", json={"title": "new", "priority": 9})

    query = {"entity_id": task["id"], "action": "task.update"}
    [entry] = (await admin.get("/audit", params=query)).json()["items"]
    assert entry["before"] == {"title": "report", "priority": 5}
    assert entry["after"] == {"title": "new", "priority": 9}


async def test_patch_refuses_null_where_something_is_needed(admin: httpx2.AsyncClient) -> None:
    task = await create(admin)

    answer = await admin.patch(f"/tasks/{task['id']}", json={"title": None, "payload": None})

    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == ["title", "payload"]
    assert (await admin.get(f"/tasks/{task['id']}")).json() == task


async def test_patch_that_makes_the_task_impossible_changes_nothing(
    admin: httpx2.AsyncClient,
) -> None:
    task = await create(admin)

    answer = await admin.patch(
        f"/tasks/{task['id']}", json={"title": "new", "schedule_expr": "61 9 * * *"}
    )

    assert answer.status_code == 422
    assert (await admin.get(f"/tasks/{task['id']}")).json() == task


async def test_an_old_etag_is_refused_and_a_current_one_accepted(
    admin: httpx2.AsyncClient,
) -> None:
    address = f"/tasks/{(await create(admin))['id']}"
    first = await admin.patch(address, json={"title": "a"}, headers={"If-Match": '"1"'})

    stale = await admin.patch(address, json={"title": "b"}, headers={"If-Match": '"1"'})
    junk = await admin.delete(address, headers={"If-Match": '"x"'})
    fresh = await admin.put(address, json=TASK, headers={"If-Match": first.headers["etag"]})

    assert (first.status_code, stale.status_code, junk.status_code) == (200, 412, 412)
    assert stale.json()["code"] == "precondition_failed"
    assert (fresh.status_code, fresh.json()["title"]) == (200, "report")


async def test_put_sets_what_is_left_out_to_its_default(admin: httpx2.AsyncClient) -> None:
    task = await create(admin, priority=9, labels={"a": "b"}, timezone="Asia/Tokyo")
    body = {k: v for k, v in TASK.items() if k != "timezone"}

    answer = await admin.put(f"/tasks/{task['id']}", json=body)

    changed = answer.json()
    assert (changed["priority"], changed["labels"]) == (5, {})
    assert changed["timezone"] == "Europe/Chisinau"


async def test_a_dry_patch_shows_the_difference_and_stores_nothing(
    admin: httpx2.AsyncClient,
) -> None:
    task = await create(admin)

    answer = await admin.patch(
        f"/tasks/{task['id']}?dry_run=true", json={"schedule_expr": "0 9 * * 1-5"}
    )

    found = answer.json()
    assert answer.status_code == 200
    assert (found["added"], found["kept"], len(found["removed"])) == ([], 64, 26)
    assert found["removed"][0] == "2026-11-28T09:00:00Z"
    assert found["complete"]
    assert (await admin.get(f"/tasks/{task['id']}")).json() == task


async def test_a_dry_patch_pairs_what_moves_within_its_day(admin: httpx2.AsyncClient) -> None:
    task = await create(admin)

    answer = await admin.patch(
        f"/tasks/{task['id']}?dry_run=true", json={"schedule_expr": "30 10 * * *"}
    )

    found = answer.json()
    assert (found["added"], found["removed"], found["kept"]) == ([], [], 0)
    assert len(found["moved"]) == 90
    assert found["moved"][0] == {
        "before": "2026-11-24T09:00:00Z",
        "after": "2026-11-24T10:30:00Z",
    }


async def test_a_deleted_task_is_gone_and_its_runs_stay(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin)
    run = (await admin.post(f"/tasks/{task['id']}/run_now")).json()

    answer = await admin.delete(f"/tasks/{task['id']}")

    assert (answer.status_code, answer.content) == (204, b"")
    assert (await admin.get(f"/tasks/{task['id']}")).status_code == 404
    assert (await admin.get("/tasks")).json()["items"] == []
    assert (await admin.get(f"/runs/{run['id']}")).json()["status"] == "canceled"
    assert await rows(db, "SELECT next_run_at FROM schedule") == [(None,)]


async def test_a_second_delete_finds_nothing(admin: httpx2.AsyncClient) -> None:
    task = await create(admin)
    await admin.delete(f"/tasks/{task['id']}")

    assert (await admin.delete(f"/tasks/{task['id']}")).status_code == 404


async def test_a_repeated_post_within_the_window_returns_the_first_task(
    admin: httpx2.AsyncClient, clock: TravelClock
) -> None:
    fields = {"dedupe_key": "order 7", "dedupe_window_seconds": 60}
    first = await create(admin, **fields)
    clock.move(timedelta(seconds=59))

    again = await admin.post("/tasks", json=TASK | fields | {"title": "other"})

    assert (again.status_code, again.json()) == (200, first)
    clock.move(timedelta(seconds=2))
    assert (await create(admin, **fields))["id"] != first["id"]


async def test_without_a_window_a_dedupe_key_is_taken_while_its_task_lives(
    admin: httpx2.AsyncClient, clock: TravelClock
) -> None:
    first = await create(admin, dedupe_key="order 7")
    clock.move(timedelta(days=400))

    again = await admin.post("/tasks", json=TASK | {"dedupe_key": "order 7"})

    assert again.json()["id"] == first["id"]
    await admin.post(f"/tasks/{first['id']}/cancel")
    assert (await create(admin, dedupe_key="order 7"))["id"] != first["id"]


async def test_pages_follow_each_other_without_gap_or_repetition(
    admin: httpx2.AsyncClient,
) -> None:
    made = [(await create(admin, title=str(n)))["id"] for n in range(5)]
    seen, query = [], {"limit": "2"}
    while True:
        page = (await admin.get("/tasks", params=query)).json()
        seen += [task["id"] for task in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]

    assert seen == made[::-1]


async def test_lists_are_filtered_by_status_kind_label_and_words(
    admin: httpx2.AsyncClient,
) -> None:
    infra = await create(admin, title="50% off", labels={"team": "infra", "env": "prod"})
    later = await create(admin, schedule_kind="interval", schedule_expr="PT1H")
    await admin.post(f"/tasks/{later['id']}/pause")

    async def found(**query: Any) -> list[str]:
        return [t["id"] for t in (await admin.get("/tasks", params=query)).json()["items"]]

    assert await found(status="paused") == [later["id"]]
    assert await found(schedule_kind="cron") == [infra["id"]]
    assert await found(label=["team:infra", "env:prod"]) == [infra["id"]]
    assert await found(label="team:sales") == []
    assert await found(q="0% O") == [infra["id"]]
    assert await found(q="5_%") == []


async def test_queries_that_make_no_sense_are_refused(admin: httpx2.AsyncClient) -> None:
    for query, path in {
        "limit=0": "limit",
        "limit=1001": "limit",
        "limit=x": "limit",
        "cursor=junk": "cursor",
        "cursor=%F0%9F%98%80": "cursor",
        "status=asleep": "status",
        "label=team": "label",
        "stauts=active": "stauts",
        "q=": "q",
    }.items():
        answer = await admin.get(f"/tasks?{query}")
        assert (answer.status_code, query) == (422, query)
        assert answer.json()["errors"][0]["path"] == path
    assert (await admin.get("/tasks?q=%00")).status_code == 422
    assert (await admin.get("/tasks/not-an-id")).status_code == 422


async def test_a_batch_is_stored_whole(admin: httpx2.AsyncClient, db: Database) -> None:
    body = {"tasks": [TASK | {"title": str(n)} for n in range(250)]}

    answer = await admin.post("/tasks/batch", json=body)

    assert answer.status_code == 201
    items = answer.json()["items"]
    assert [item["title"] for item in items] == [str(n) for n in range(250)]
    assert (await admin.get(f"/tasks/{items[7]['id']}")).json() == items[7]
    assert await rows(db, "SELECT count(*) FROM fact WHERE topic = 'task.created'") == [(250,)]


async def test_a_batch_with_one_bad_task_stores_none(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    body = {"tasks": [TASK, TASK | {"timezone": "Mars/Base"}, TASK | {"schedule_expr": "x"}]}

    answer = await admin.post("/tasks/batch", json=body)

    assert answer.status_code == 422
    paths = [error["path"] for error in answer.json()["errors"]]
    assert paths == ["tasks[1].timezone", "tasks[2].schedule_expr"]
    assert await rows(db, "SELECT count(*) FROM task") == [(0,)]


async def test_validation_tells_the_next_occurrences_and_stores_nothing(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    answer = await admin.post("/tasks/validate", json=TASK)

    assert answer.json()["occurrences"][:2] == ["2026-11-24T09:00:00Z", "2026-11-25T09:00:00Z"]
    assert await rows(db, "SELECT count(*) FROM task") == [(0,)]
    bad = await admin.post("/tasks/validate", json=TASK | {"schedule_expr": "x"})
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_schedule")


async def test_a_schedule_that_is_due_at_once_wakes_the_schedulers(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    async with db.connection() as tx:
        await tx.execute("LISTEN ordinaut_schedule")
        await create(admin, schedule_kind="rrule", schedule_expr="FREQ=SECONDLY")
        await create(admin)

        heard = [notify.channel async for notify in tx.notifies(timeout=0.5)]

    assert heard == ["ordinaut_schedule"]


async def test_a_body_over_the_limit_is_refused(admin: httpx2.AsyncClient, db: Database) -> None:
    body = TASK | {"description": "x" * 1_048_576}

    async def pieces() -> Any:
        for _ in range(1_100):
            yield b" " * 1_000

    announced = await admin.post("/tasks", json=body)
    chunked = await admin.post(
        "/tasks", content=pieces(), headers={"Content-Type": "application/json"}
    )

    for answer in (announced, chunked):
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "too_large"
    assert await rows(db, "SELECT count(*) FROM task") == [(0,)]
