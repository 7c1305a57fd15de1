"""Condition tasks by way of the API: stored, checked, changed, paused, tried out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest

from calling import NOW, TASK, act, assert_problem, create, rows
from ordinaut.clock import TravelClock
from ordinaut.model import Json
from ordinaut.store.database import Database

PROBE: dict[str, Any] = {
    "uses": "http.request",
    "with": {"url": "https://disk.example/free"},
    "every": "30s",
    "mode": "edge",
    "cooldown_seconds": 600,
}
TELL = [{"uses": "core.log", "with": {"message": "free: ${probe.json.free}"}}]


def payload(**changes: Json) -> Json:
    return {"probe": PROBE | changes, "pipeline": TELL}


CONDITION: dict[str, Any] = {
    **TASK,
    "schedule_kind": "condition",
    "schedule_expr": "json.free < `10`",
    "payload": payload(),
}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def saw(db: Database, *, holds: bool = True) -> None:
    """Let a worker have seen what the condition is."""
    await rows(
        db,
        "UPDATE probe SET holds = %s, armed = NOT %s, polled_at = now(), fired_at = now(),"
        " next_at = next_at + interval '30 s', failures = 2, error = '{\"code\": \"x\"}'"
        " RETURNING 1",
        holds,
        holds,
    )


async def memory(db: Database) -> tuple[Any, ...]:
    [found] = await rows(db, "SELECT armed, holds, next_at, lease_token FROM probe")
    return found


async def test_a_condition_task_is_stored_and_polled_from_now_on(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin, **CONDITION)

    assert (task["next_run_at"], task["payload"]["probe"]) == (None, PROBE)
    known = dict(task["condition"])
    assert at(known.pop("next_poll_at")) == NOW
    assert known == {
        "holds": None,
        "since": None,
        "polled_at": None,
        "fired_at": None,
        "failures": 0,
        "failing_since": None,
        "error": None,
    }
    assert (await admin.get(f"/tasks/{task['id']}")).json() == task
    assert await rows(db, "SELECT every, extract(epoch FROM patience)::int FROM probe") == [
        (30.0, 60)
    ]


async def test_other_tasks_have_no_condition(admin: httpx2.AsyncClient, db: Database) -> None:
    assert (await create(admin))["condition"] is None
    assert await rows(db, "SELECT count(*) FROM probe") == [(0,)]


async def test_a_batch_may_hold_conditions(admin: httpx2.AsyncClient) -> None:
    starts_at = (NOW + timedelta(hours=1)).isoformat()
    body = {"tasks": [TASK, CONDITION, CONDITION | {"starts_at": starts_at}]}
    answer = await act(admin, "/tasks/batch", 201, **body)
    polls = [task["condition"] and task["condition"]["next_poll_at"] for task in answer["items"]]
    assert polls[0] is None
    assert [at(text) for text in polls[1:]] == [NOW, NOW + timedelta(hours=1)]


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"payload": {"pipeline": TASK["payload"]["pipeline"]}}, "payload.probe", "polls a probe"),
        ({"payload": {"probe": [], "pipeline": TELL}}, "payload.probe", "an object"),
        ({"payload": payload(uses=None)}, "payload.probe.uses", "names the tool"),
        ({"payload": payload(uses="http.reqest")}, "payload.probe.uses", "http.request"),
        (
            {"payload": payload(uses="smtp.send", **{"with": {}})},
            "payload.probe.uses",
            "again and again",
        ),
        ({"payload": payload(every=0.5)}, "payload.probe.every", "at least 1 second"),
        ({"payload": payload(every=None)}, "payload.probe.every", "at least 1 second"),
        ({"payload": payload(every="soon")}, "payload.probe.every", '"90s"'),
        ({"payload": payload(every=True)}, "payload.probe.every", "at least 1 second"),
        ({"payload": payload(every=10**9)}, "payload.probe.every", "at least 1 second"),
        ({"payload": payload(mode="rising")}, "payload.probe.mode", '"edge" or "level"'),
        ({"payload": payload(mode=["edge"])}, "payload.probe.mode", '"edge" or "level"'),
        ({"payload": payload(cooldown_seconds=-1)}, "payload.probe.cooldown_seconds", "from 0"),
        ({"payload": payload(timeout_seconds=301)}, "payload.probe.timeout_seconds", "at most"),
        ({"payload": payload(evry=1)}, "payload.probe.evry", "every"),
        ({"payload": payload(**{"with": {"url": 7}})}, "payload.probe.with.url", "string"),
        (
            {"payload": payload(**{"with": {"url": "${steps.a}"}})},
            "payload.probe.with.url",
            "unknown step",
        ),
        (
            {"payload": payload(**{"with": {"url": "${probe.x}"}})},
            "payload.probe.with.url",
            "unknown name",
        ),
        ({"schedule_expr": "free <"}, "schedule_expr", "not complete"),
        ({"schedule_expr": "lenght(@) > `1`"}, "schedule_expr", "length"),
        ({"ends_at": "2026-01-01T00:00:00Z"}, "schedule_expr", "nothing follows"),
    ],
)
async def test_what_a_condition_task_can_not_be(
    admin: httpx2.AsyncClient, db: Database, changes: Json, path: str, message: str
) -> None:
    for address in ("/tasks", "/tasks/validate"):
        answer = await admin.post(address, json=CONDITION | changes)
        problems = assert_problem(answer, status=422)["errors"]
        assert message in {p["path"]: p["message"] for p in problems}[path]
    assert await rows(db, "SELECT count(*) FROM task") == [(0,)]


async def test_only_a_condition_task_has_a_probe(admin: httpx2.AsyncClient) -> None:
    for body in (TASK | {"payload": payload()}, TASK | {"payload": {"pipeline": TELL}}):
        assert_problem(await admin.post("/tasks", json=body), status=422)
    task = await create(admin, **CONDITION)
    plain = {"payload": TASK["payload"]}
    answer = await admin.patch(f"/tasks/{task['id']}", json=plain)
    [problem] = assert_problem(answer, status=422)["errors"]
    assert problem["path"] == "payload.probe"


async def test_the_exclusion_of_days_can_only_skip(admin: httpx2.AsyncClient) -> None:
    await act(admin, "/calendars", 201, name="off", definition={"weekdays": ["SU"]})
    await create(admin, **CONDITION, exclude=["off"])
    body = CONDITION | {"exclude": ["off"], "on_excluded": "next"}
    [problem] = assert_problem(await admin.post("/tasks", json=body), status=422)["errors"]
    assert problem["path"] == "on_excluded"


async def test_a_valid_condition_task_has_no_occurrences(admin: httpx2.AsyncClient) -> None:
    answer = await act(admin, "/tasks/validate", **CONDITION)
    assert answer == {"valid": True, "next_run_at": None, "occurrences": []}


@pytest.mark.parametrize(
    "change",
    [
        {"schedule_expr": "json.free < `5`"},
        {"payload": payload(**{"with": {"url": "https://other.example"}})},
    ],
)
async def test_another_condition_is_polled_anew(
    admin: httpx2.AsyncClient, db: Database, change: Json
) -> None:
    task = await create(admin, **CONDITION)
    await saw(db)

    changed = (await admin.patch(f"/tasks/{task['id']}", json=change)).json()

    assert await memory(db) == (True, None, NOW, 1)
    assert (changed["condition"]["failures"], changed["condition"]["error"]) == (0, None)
    assert changed["condition"]["fired_at"] is not None


@pytest.mark.parametrize(
    "change", [{"payload": payload(every=5, mode="level")}, {"timezone": "Asia/Tokyo"}]
)
async def test_another_rhythm_keeps_what_is_known(
    admin: httpx2.AsyncClient, db: Database, change: Json
) -> None:
    task = await create(admin, **CONDITION)
    await saw(db)
    await admin.patch(f"/tasks/{task['id']}", json=change)
    assert await memory(db) == (False, True, NOW, 1)


async def test_another_title_changes_nothing(admin: httpx2.AsyncClient, db: Database) -> None:
    task = await create(admin, **CONDITION)
    before = await memory(db)
    await admin.patch(f"/tasks/{task['id']}", json={"title": "new"})
    assert await memory(db) == before


async def test_a_task_may_become_a_condition_and_cease_to_be_one(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin)
    parts = ("schedule_kind", "schedule_expr", "payload")
    address = f"/tasks/{task['id']}"

    became = (await admin.patch(address, json={n: CONDITION[n] for n in parts})).json()
    ceased = (await admin.patch(address, json={n: TASK[n] for n in parts})).json()

    assert (became["condition"]["failures"], became["next_run_at"]) == (0, None)
    assert ceased["condition"] is None
    assert await rows(db, "SELECT count(*) FROM probe") == [(0,)]


@pytest.mark.parametrize(("catchup", "armed"), [("last", True), ("none", False), (None, True)])
async def test_a_resumed_task_remembers_its_condition_unless_it_shall_not_catch_up(
    admin: httpx2.AsyncClient, db: Database, clock: TravelClock, catchup: str, armed: bool
) -> None:
    task = await create(admin, **CONDITION)
    await saw(db, holds=False)
    address = f"/tasks/{task['id']}"

    paused = await act(admin, f"{address}/pause")
    clock.move(timedelta(hours=1))
    resumed = await act(admin, f"{address}/resume", **({"catchup": catchup} if catchup else {}))

    assert paused["condition"]["next_poll_at"] is None
    assert at(resumed["condition"]["next_poll_at"]) == NOW + timedelta(hours=1)
    assert await memory(db) == (armed, False, NOW + timedelta(hours=1), 1)


async def test_a_paused_task_that_is_changed_stays_unpolled(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin, **CONDITION)
    await act(admin, f"/tasks/{task['id']}/pause")
    await admin.patch(f"/tasks/{task['id']}", json={"schedule_expr": "x"})
    assert (await memory(db))[2] is None


async def test_run_now_runs_the_pipeline_without_a_poll(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin, **CONDITION)
    before = await memory(db)
    run = await act(admin, f"/tasks/{task['id']}/run_now", 202)
    assert (run["trigger"], run["probe"]) == ("run_now", None)
    assert await memory(db) == before


async def test_a_dry_run_shows_the_call_of_the_probe(admin: httpx2.AsyncClient) -> None:
    task = await create(admin, **CONDITION)
    address = f"/tasks/{task['id']}/dry_run"

    unknown = await act(admin, address)
    given = await act(admin, address, probe={"json": {"free": 3}})
    enough = await act(admin, address, probe={"json": {"free": 30}})

    assert unknown["probe"] == {
        "id": "probe",
        "path": "payload.probe",
        "status": "would_call",
        "uses": "http.request",
        "with": {"url": "https://disk.example/free"},
    }
    assert unknown["steps"][0]["unknown"] == ["probe"]
    assert (given["probe"]["holds"], enough["probe"]["holds"]) == (True, False)
    assert given["steps"][0]["with"] == {"message": "free: 3"}


async def test_a_dry_run_calls_a_pure_probe(admin: httpx2.AsyncClient) -> None:
    probe = {"uses": "core.transform", "with": {"value": {"free": 3}}, "every": 1}
    steps = [{"uses": "core.log", "with": {"message": "${probe.free}"}}]
    fields = {"schedule_expr": "free < `10`", "payload": {"probe": probe, "pipeline": steps}}
    task = await create(admin, **CONDITION | fields)

    shown = await act(admin, f"/tasks/{task['id']}/dry_run")

    assert (shown["probe"]["status"], shown["probe"]["holds"]) == ("called", True)
    assert shown["steps"][0]["status"] == "would_call"


async def test_what_has_no_occurrences_can_not_be_snoozed_or_filled_in(
    admin: httpx2.AsyncClient,
) -> None:
    task = await create(admin, **CONDITION)
    address = f"/tasks/{task['id']}"
    await act(admin, f"{address}/snooze", 409, seconds=60)
    span = {"since": "2026-01-01T00:00:00Z", "until": NOW.isoformat()}
    assert (await act(admin, f"{address}/backfill", 202, **span))["occurrences"] == 0
    assert (await admin.get(f"{address}/occurrences")).json()["items"] == []


async def test_preview_and_explain_of_a_condition(admin: httpx2.AsyncClient) -> None:
    when = {"schedule_kind": "condition", "schedule_expr": "free < `10`"}
    assert await act(admin, "/schedules/preview", **when) == {"occurrences": [], "finished": False}
    said = await act(admin, "/schedules/explain", **when)
    assert said["text"].startswith('When "free < `10`"')
