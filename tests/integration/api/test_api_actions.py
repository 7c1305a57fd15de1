"""What is done to tasks over HTTP: run, pause, resume, snooze, cancel, look back, try out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest

import queueing
from calling import act, create
from ordinaut.api.schemas.runs import RunDetail, RunOut
from ordinaut.clock import TravelClock
from ordinaut.model import uuid7
from ordinaut.scheduler.calendars import Calendars
from ordinaut.scheduler.tick import tick
from ordinaut.store.database import Database


async def work_off(db: Database, clock: TravelClock, status: str = "succeeded") -> None:
    """Lease all that is ready and end it, as a worker would."""
    now = clock.now()
    said = queueing.step("say", output={"said": True})
    batch = [
        queueing.ended(
            held,
            status=status,
            started_at=now.timestamp(),
            finished_at=now.timestamp() + 2,
            output={"n": 1},
            steps=[said],
        )
        for held in await queueing.lease(db, now=now)
    ]
    assert await queueing.settle(db, *batch) == set()  # nothing was lost


@pytest.fixture
def ticked(db: Database, clock: TravelClock) -> Callable[[], Awaitable[int]]:
    """Lets a scheduler tick at the clock's instant."""
    calendars = Calendars()

    async def run() -> int:
        return (await tick(db, calendars, now=clock.now())).enqueued

    return run


async def test_a_task_that_is_run_now_has_a_queued_run_with_its_parameters(
    admin: httpx2.AsyncClient,
) -> None:
    task = await create(admin, priority=3)

    run = await act(admin, f"/tasks/{task['id']}/run_now", 202, params={"to": "you"})

    assert run.keys() == RunOut.model_fields.keys()
    assert (run["status"], run["trigger"], run["params"]) == ("queued", "run_now", {"to": "you"})
    assert run["scheduled_for"] is None
    assert (await admin.get("/runs")).json()["items"] == [run]
    assert (await admin.get(f"/tasks/{task['id']}")).json()["next_run_at"] == task["next_run_at"]


async def test_a_run_is_seen_queued_running_and_ended_with_its_steps(
    admin: httpx2.AsyncClient, db: Database, clock: TravelClock
) -> None:
    task = await create(admin)
    run = await act(admin, f"/tasks/{task['id']}/run_now", 202)

    await work_off(db, clock)

    found = (await admin.get(f"/runs/{run['id']}")).json()
    assert found.keys() == RunDetail.model_fields.keys()
    assert (found["status"], found["attempt"], found["output"]) == ("succeeded", 1, {"n": 1})
    [step] = found["steps"]
    assert (step["id"], step["uses"], step["output"]) == ("say", "core.log", {"said": True})
    last = (await admin.get(f"/tasks/{task['id']}")).json()["last_run"]
    assert (last["id"], last["status"]) == (run["id"], "succeeded")


async def test_runs_are_filtered_and_paged_over_queue_and_history(
    admin: httpx2.AsyncClient, db: Database, clock: TravelClock
) -> None:
    task, other = await create(admin), await create(admin)
    ended = [await act(admin, f"/tasks/{task['id']}/run_now", 202) for _ in range(3)]
    await work_off(db, clock, "failed")
    queued = [await act(admin, f"/tasks/{task['id']}/run_now", 202) for _ in range(2)]
    await act(admin, f"/tasks/{other['id']}/run_now", 202)
    expected = [run["id"] for run in reversed(ended + queued)]

    async def found(**query: Any) -> list[str]:
        query |= {"task_id": task["id"]}
        return [run["id"] for run in (await admin.get("/runs", params=query)).json()["items"]]

    assert await found() == expected
    assert await found(status="failed") == expected[2:]
    assert await found(status=["queued", "running"]) == expected[:2]
    assert await found(trigger="schedule") == []
    first = (await admin.get("/runs", params={"task_id": task["id"], "limit": 3})).json()
    assert await found(cursor=first["next_cursor"]) == expected[3:]


async def test_run_stats_count_what_lives_and_what_ended(
    admin: httpx2.AsyncClient, db: Database, clock: TravelClock
) -> None:
    task = await create(admin)
    for status in ("succeeded", "failed"):
        await act(admin, f"/tasks/{task['id']}/run_now", 202)
        await work_off(db, clock, status)
    await act(admin, f"/tasks/{task['id']}/run_now", 202)

    found = (await admin.get("/runs/stats")).json()

    assert found["counts"] == {"queued": 1, "succeeded": 1, "failed": 1}
    assert found["duration"] == {"p50": 2.0, "p95": 2.0, "p99": 2.0}
    nothing = (await admin.get("/runs/stats", params={"task_id": str(uuid7())})).json()
    assert (nothing["counts"], nothing["duration"]) == ({}, None)


async def test_a_queued_run_is_canceled_at_once(admin: httpx2.AsyncClient) -> None:
    task = await create(admin)
    run = await act(admin, f"/tasks/{task['id']}/run_now", 202)

    assert (await act(admin, f"/runs/{run['id']}/cancel", 202))["status"] == "canceled"
    again = await admin.post(f"/runs/{run['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


async def test_a_failed_run_is_queued_once_more_and_a_good_one_is_not(
    admin: httpx2.AsyncClient, db: Database, clock: TravelClock
) -> None:
    task = await create(admin)
    run = await act(admin, f"/tasks/{task['id']}/run_now", 202)
    await work_off(db, clock, "failed")

    again = await act(admin, f"/runs/{run['id']}/retry", 202)

    assert (again["id"], again["status"]) == (run["id"], "queued")
    await work_off(db, clock)
    assert (await admin.post(f"/runs/{run['id']}/retry")).status_code == 409


async def test_a_paused_task_does_not_fire_and_a_resumed_one_does(
    admin: httpx2.AsyncClient, clock: TravelClock, ticked: Any
) -> None:
    task = await create(admin)
    paused = await act(admin, f"/tasks/{task['id']}/pause")
    assert (paused["status"], paused["next_run_at"]) == ("paused", None)
    clock.move(timedelta(days=2))
    assert await ticked() == 0

    resumed = await act(admin, f"/tasks/{task['id']}/resume", catchup="none")

    assert resumed["status"] == "active"
    assert await ticked() == 0
    found = (await admin.get(f"/tasks/{task['id']}/occurrences")).json()
    verdicts = [one["verdict"] for one in found["items"][:3]]
    assert verdicts == ["skipped_paused", "skipped_paused", "upcoming"]
    assert found["items"][2]["scheduled_for"] == "2026-11-26T09:00:00Z"
    clock.move(timedelta(days=1))
    assert await ticked() == 1


async def test_pausing_and_resuming_twice_changes_nothing_more(
    admin: httpx2.AsyncClient,
) -> None:
    task = await create(admin)
    for action in ("pause", "pause", "resume", "resume"):
        await act(admin, f"/tasks/{task['id']}/{action}")

    query = {"entity_id": task["id"]}
    actions = [e["action"] for e in (await admin.get("/audit", params=query)).json()["items"]]
    assert actions == ["task.resume", "task.pause", "task.create"]


async def test_snooze_moves_exactly_the_next_occurrence(
    admin: httpx2.AsyncClient, clock: TravelClock, ticked: Any
) -> None:
    task = await create(admin)

    snoozed = await act(admin, f"/tasks/{task['id']}/snooze", seconds=3600)

    assert snoozed["next_run_at"] == "2026-11-24T10:00:00Z"
    clock.set(datetime.fromisoformat("2026-11-24T09:30:00Z"))
    assert await ticked() == 0
    clock.set(datetime.fromisoformat("2026-11-24T10:00:00Z"))
    assert await ticked() == 1
    after = (await admin.get(f"/tasks/{task['id']}")).json()
    assert after["next_run_at"] == "2026-11-25T09:00:00Z"


async def test_a_snooze_needs_one_later_time(admin: httpx2.AsyncClient) -> None:
    address = f"/tasks/{(await create(admin))['id']}/snooze"
    until = "2026-11-25T08:00:00Z"

    assert (await act(admin, address, until=until))["next_run_at"] == until
    for body in ({}, {"until": until, "seconds": 1}, {"seconds": 0}, {"seconds": "5"}):
        assert (await admin.post(address, json=body)).status_code == 422
    early = await admin.post(address, json={"until": "2026-11-24T08:59:59Z"})
    assert early.json()["errors"][0]["path"] == "until"


async def test_a_canceled_task_is_over_for_good(
    admin: httpx2.AsyncClient, clock: TravelClock, ticked: Any
) -> None:
    task = await create(admin)
    run = await act(admin, f"/tasks/{task['id']}/run_now", 202)

    canceled = await act(admin, f"/tasks/{task['id']}/cancel")

    assert (canceled["status"], canceled["next_run_at"]) == ("canceled", None)
    assert (await admin.get(f"/runs/{run['id']}")).json()["status"] == "canceled"
    clock.move(timedelta(days=2))
    assert await ticked() == 0
    for action, body in {
        "run_now": None,
        "pause": None,
        "resume": None,
        "snooze": {"seconds": 60},
        "backfill": {"since": "2026-11-01T00:00:00Z", "until": "2026-11-02T00:00:00Z"},
    }.items():
        answer = await admin.post(f"/tasks/{task['id']}/{action}", json=body)
        assert (answer.status_code, action) == (409, action)
    assert (await admin.patch(f"/tasks/{task['id']}", json={"title": "x"})).status_code == 409
    assert (await act(admin, f"/tasks/{task['id']}/cancel"))["status"] == "canceled"


async def test_a_task_that_was_completed_fires_again_with_a_new_schedule(
    admin: httpx2.AsyncClient, clock: TravelClock, ticked: Any
) -> None:
    once = {"schedule_kind": "once", "schedule_expr": "2026-11-23T13:00:00Z"}
    task = await create(admin, **once)
    clock.move(timedelta(hours=1))
    assert await ticked() == 1
    assert (await admin.get(f"/tasks/{task['id']}")).json()["status"] == "completed"

    answer = await admin.patch(
        f"/tasks/{task['id']}", json={"schedule_expr": "2026-11-23T14:00:00Z"}
    )

    assert (answer.json()["status"], answer.json()["fired"]) == ("active", 1)
    clock.move(timedelta(hours=1))
    assert await ticked() == 1


async def test_bulk_actions_reach_what_fits_and_is_in_a_state_for_it(
    admin: httpx2.AsyncClient,
) -> None:
    ours = [await create(admin, labels={"team": "a"}) for _ in range(3)]
    other = await create(admin, labels={"team": "b"})
    await act(admin, f"/tasks/{ours[0]['id']}/pause")

    done = await act(admin, "/tasks/bulk", action="pause", filter={"labels": {"team": "a"}})

    assert (done["matched"], len(done["changed"])) == (3, 2)
    assert (await admin.get(f"/tasks/{other['id']}")).json()["status"] == "active"
    ids = [ours[1]["id"], other["id"]]
    done = await act(admin, "/tasks/bulk", action="cancel", filter={"ids": ids, "status": "paused"})
    assert done == {"matched": 1, "changed": [ours[1]["id"]]}


async def test_a_bulk_action_on_everything_must_be_said(admin: httpx2.AsyncClient) -> None:
    for body in (
        {"action": "cancel", "filter": {}},
        {"action": "cancel"},
        {"action": "delete", "filter": {"status": "active"}},
        {"action": "pause", "filter": {"ids": ["x"]}},
    ):
        assert (await admin.post("/tasks/bulk", json=body)).status_code == 422


async def test_backfill_runs_what_has_no_run_once(
    admin: httpx2.AsyncClient, clock: TravelClock, ticked: Any
) -> None:
    task = await create(admin)
    clock.move(timedelta(days=1))
    assert await ticked() == 1
    week = {"since": "2026-11-20T00:00:00Z", "until": "2026-11-27T00:00:00Z"}

    first = await act(admin, f"/tasks/{task['id']}/backfill", 202, **week)
    again = await act(admin, f"/tasks/{task['id']}/backfill", 202, **week)

    assert (first["occurrences"], len(first["run_ids"])) == (5, 4)
    assert again["run_ids"] == []
    runs = (await admin.get("/runs", params={"trigger": "backfill"})).json()["items"]
    assert {run["scheduled_for"] for run in runs} == {
        f"2026-11-{day}T09:00:00Z" for day in (20, 21, 22, 23)
    }
    backwards = {"since": week["until"], "until": week["since"]}
    assert (await admin.post(f"/tasks/{task['id']}/backfill", json=backwards)).status_code == 422


async def test_occurrences_link_to_their_runs(
    admin: httpx2.AsyncClient, db: Database, clock: TravelClock, ticked: Any
) -> None:
    task = await create(admin, max_runs=3)
    clock.move(timedelta(days=1))
    await ticked()
    await work_off(db, clock)

    found = (await admin.get(f"/tasks/{task['id']}/occurrences", params={"future": 5})).json()

    past, *coming = found["items"]
    assert (past["scheduled_for"], past["verdict"]) == ("2026-11-24T09:00:00Z", "started")
    assert past["run_status"] == "succeeded"
    assert (await admin.get(f"/runs/{past['run_id']}")).status_code == 200
    assert [(one["scheduled_for"], one["verdict"]) for one in coming] == [
        ("2026-11-25T09:00:00Z", "upcoming"),
        ("2026-11-26T09:00:00Z", "upcoming"),
    ]


async def test_a_dry_run_renders_the_steps_and_leaves_no_trace(
    admin: httpx2.AsyncClient,
) -> None:
    pipeline = [
        {"id": "sum", "uses": "core.transform", "with": {"value": "${params.n}"}},
        {"id": "get", "uses": "http.request", "with": {"url": "http://127.0.0.1:9/${steps.sum}"}},
    ]
    task = await create(admin, payload={"params": {"n": 1}, "pipeline": pipeline})

    found = await act(admin, f"/tasks/{task['id']}/dry_run", params={"n": 2})

    first, second = found["steps"]
    assert (first["status"], first["output"]) == ("called", 2)
    assert (second["status"], second["with"]["url"]) == ("would_call", "http://127.0.0.1:9/2")
    assert (await admin.get("/runs")).json()["items"] == []


async def test_previews_show_instants_local_times_and_what_is_special(
    admin: httpx2.AsyncClient,
) -> None:
    schedule = {
        "schedule_kind": "rrule",
        "schedule_expr": "FREQ=DAILY;BYHOUR=3;BYMINUTE=30;BYSECOND=0;COUNT=2",
        "starts_at": "2027-03-27T00:00:00Z",
        "after": "2027-03-27T00:00:00Z",
    }

    found = await act(admin, "/schedules/preview", **schedule)

    assert found["finished"]
    assert found["occurrences"] == [
        {"at": "2027-03-27T01:30:00Z", "local": "2027-03-27T03:30:00+02:00", "note": ""},
        {"at": "2027-03-28T01:30:00Z", "local": "2027-03-28T04:30:00+03:00", "note": "dst_shifted"},
    ]


async def test_previews_and_explanations_refuse_what_tasks_refuse(
    admin: httpx2.AsyncClient,
) -> None:
    bad = {"schedule_kind": "cron", "schedule_expr": "61 * * * *"}
    for address in ("/schedules/preview", "/schedules/explain"):
        answer = await admin.post(address, json=bad)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_schedule")
        assert answer.json()["errors"][0]["path"] == "schedule_expr"
    too_many = {"schedule_kind": "cron", "schedule_expr": "* * * * *", "count": 1001}
    assert (await admin.post("/schedules/preview", json=too_many)).status_code == 422


async def test_schedules_are_explained_in_three_languages(admin: httpx2.AsyncClient) -> None:
    schedule = {"schedule_kind": "cron", "schedule_expr": "0 9 * * *", "timezone": "UTC"}

    said = {
        language: (await act(admin, "/schedules/explain", language=language, **schedule))["text"]
        for language in ("en", "ro", "ru")
    }

    assert len(set(said.values())) == 3
    assert all("09:00" in text for text in said.values())


async def test_templates_and_conditions_can_be_tried_out(admin: httpx2.AsyncClient) -> None:
    context = {"params": {"n": 2, "who": "Ana"}}

    value = {"n": "${params.n}", "text": "hi ${params.who}"}
    evaluated = await act(admin, "/templates/evaluate", value=value, context=context)
    condition = await act(admin, "/templates/evaluate", condition="params.n > `1`", context=context)

    assert evaluated == {"value": {"n": 2, "text": "hi Ana"}}
    assert condition == {"result": True}


async def test_a_template_that_fails_says_where(admin: httpx2.AsyncClient) -> None:
    for value, position in (("${params..x}", 7), ("x ${params.nope}", 7)):
        answer = await admin.post(
            "/templates/evaluate", json={"value": value, "context": {"params": {"n": 1}}}
        )
        problem = answer.json()
        assert answer.status_code == 422
        assert problem["errors"][0]["path"] == "value"
        assert problem["position"] == position
    neither = await admin.post("/templates/evaluate", json={"context": {}})
    assert neither.status_code == 422
