"""Secrets over HTTP: values go in and never come out."""

from __future__ import annotations

from datetime import timedelta

import pytest

from calling import NOW, TASK, AgentOf, act, assert_problem, create, rows
from ordinaut.clock import TravelClock
from ordinaut.store.database import Database

VALUE = "correct horse battery staple"


def using(name: str, **where: object) -> dict[str, object]:
    step = {"uses": "core.log", "with": {"message": f"${{secrets.{name}}}"}, **where}
    return {"payload": {"pipeline": [step]}}


async def test_a_secret_is_listed_by_name_alone(agent: AgentOf, clock: TravelClock) -> None:
    me = await agent("secrets:read", "secrets:write")

    put = await me.client.put("/secrets/TOKEN", json={"value": VALUE})
    clock.move(timedelta(seconds=60))
    again = await me.client.put("/secrets/TOKEN", json={"value": VALUE[::-1]})
    shown = await me.client.get("/secrets/TOKEN")
    listed = await me.client.get("/secrets")

    assert put.status_code == again.status_code == 200
    assert put.json()["created_at"] == again.json()["created_at"] == f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
    assert again.json()["updated_at"] > put.json()["updated_at"]
    assert listed.json()["items"] == [shown.json()] == [again.json()]
    assert shown.json().keys() == {"name", "agent_id", "created_at", "updated_at"}
    for answer in (put, again, shown, listed):
        assert VALUE not in answer.text
        assert VALUE[::-1] not in answer.text


async def test_what_is_stored_does_not_hold_the_value(agent: AgentOf, db: Database) -> None:
    me = await agent("secrets:write")

    for name in ("A", "B"):
        assert (await me.client.put(f"/secrets/{name}", json={"value": VALUE})).status_code == 200

    stored = await rows(db, "SELECT ciphertext FROM secret ORDER BY name")
    assert len({ciphertext for (ciphertext,) in stored}) == 2  # equal values do not look equal
    assert not any(VALUE.encode() in ciphertext for (ciphertext,) in stored)
    logged = await rows(db, "SELECT action, entity_id, audit_log::text FROM audit_log")
    assert [entry[:2] for entry in logged] == [("secret.set", "A"), ("secret.set", "B")]
    assert not any(VALUE in text for _, _, text in logged)


async def test_secrets_belong_to_their_agent(agent: AgentOf) -> None:
    mine = await agent("secrets:read", "secrets:write", "tasks:write")
    other = await agent("secrets:read", "secrets:write", "tasks:write")
    admin = await agent("secrets:read:all", "secrets:write:all")
    await mine.client.put("/secrets/TOKEN", json={"value": VALUE})

    assert (await other.client.get("/secrets")).json()["items"] == []
    assert_problem(await other.client.get("/secrets/TOKEN"), status=404)
    assert_problem(await other.client.delete("/secrets/TOKEN"), status=404)
    whose = {"agent_id": mine.id}
    for answer in (
        await other.client.get("/secrets", params=whose),
        await other.client.get("/secrets/TOKEN", params=whose),
        await other.client.put("/secrets/TOKEN", params=whose, json={"value": VALUE}),
        await other.client.delete("/secrets/TOKEN", params=whose),
    ):
        assert_problem(answer, status=403, code="forbidden")
    assert_problem(await other.client.post("/tasks", json=TASK | using("TOKEN")), status=422)
    assert [one["agent_id"] for one in (await admin.client.get("/secrets")).json()["items"]] == [
        mine.id
    ]
    changed = await admin.client.put("/secrets/TOKEN", params=whose, json={"value": VALUE})
    assert changed.json()["agent_id"] == mine.id
    assert (await admin.client.delete("/secrets/TOKEN", params=whose)).status_code == 204
    assert (await mine.client.get("/secrets")).json()["items"] == []


async def test_a_secret_of_an_agent_that_does_not_exist_is_not_stored(agent: AgentOf) -> None:
    admin = await agent("admin")

    answer = await admin.client.put(
        "/secrets/A", params={"agent_id": "0" * 32}, json={"value": VALUE}
    )

    assert_problem(answer, status=404)


@pytest.mark.parametrize("name", ["a-b", "1a", "a.b", "a" * 65, "%20", "ä", "a%0A"])
async def test_names_that_no_expression_could_use_are_refused(agent: AgentOf, name: str) -> None:
    me = await agent("secrets:write")

    answer = await me.client.put(f"/secrets/{name}", json={"value": VALUE})

    assert_problem(answer, status=422)


@pytest.mark.parametrize(
    "body", [{}, {"value": "abc"}, {"value": "x" * 16_385}, {"value": 7}, {"value": VALUE, "n": 1}]
)
async def test_a_refused_value_is_not_repeated(agent: AgentOf, body: dict[str, object]) -> None:
    me = await agent("secrets:read", "secrets:write")

    answer = await me.client.put("/secrets/A", json=body)

    assert_problem(answer, status=422)
    assert "xxx" not in answer.text
    assert VALUE not in answer.text
    assert (await me.client.get("/secrets")).json()["items"] == []


async def test_a_task_names_secrets_that_exist(agent: AgentOf) -> None:
    me = await agent("tasks:write", "tasks:read", "secrets:write")
    await me.client.put("/secrets/TOKEN", json={"value": VALUE})
    task = await create(me.client, **using("TOKEN"))

    bad = TASK | using("TOKN")
    for answer in (
        await me.client.post("/tasks", json=bad),
        await me.client.post("/tasks/validate", json=bad),
        await me.client.patch(f"/tasks/{task['id']}", json={"payload": bad["payload"]}),
        await me.client.put(f"/tasks/{task['id']}", json=bad),
    ):
        [error] = assert_problem(answer, status=422, code="invalid_pipeline")["errors"]
        assert error["path"] == "payload.pipeline[0].with.message"
        assert error["code"] == "unknown_secret"
        assert error["message"] == "no secret TOKN; set it with PUT /secrets/TOKN"
    batch = await me.client.post("/tasks/batch", json={"tasks": [TASK | using("TOKEN"), bad]})
    [error] = assert_problem(batch, status=422)["errors"]
    assert error["path"] == "tasks[1].payload.pipeline[0].with.message"


@pytest.mark.parametrize(
    "payload",
    [
        {"pipeline": [{"uses": "core.log", "with": {"message": "a"}, "if": "secrets.TOKEN"}]},
        {
            "pipeline": [{"uses": "core.log", "with": {"message": "a"}}],
            "output": "${secrets.TOKEN}",
        },
        {"pipeline": [{"uses": "core.log", "foreach": "${[secrets.TOKEN]}", "with": {}}]},
        {"pipeline": [{"wait_for": {"approval": {"message": "${secrets.TOKEN}"}}}]},
        {"pipeline": [{"uses": "approval.request", "with": {"message": "${secrets.TOKEN}"}}]},
        {"pipeline": [{"wait_for": {"event": "${secrets.TOKEN}"}}]},
        {"pipeline": [{"uses": "core.log", "with": {"message": "${secrets}"}}]},
        {"pipeline": [{"uses": "core.log", "with": {"message": "${secrets.*}"}}]},
        {"pipeline": [{"uses": "core.log", "with": {"message": "${keys(secrets)}"}}]},
    ],
)
async def test_secrets_are_refused_outside_of_with_and_without_a_name(
    agent: AgentOf, payload: dict[str, object]
) -> None:
    me = await agent("tasks:write", "secrets:write")
    await me.client.put("/secrets/TOKEN", json={"value": VALUE})

    answer = await me.client.post("/tasks", json=TASK | {"payload": payload})

    assert_problem(answer, status=422)
    assert "secrets" in answer.text


async def test_a_dry_run_shows_stars(agent: AgentOf) -> None:
    me = await agent("tasks:write", "tasks:run", "secrets:write")
    await me.client.put("/secrets/TOKEN", json={"value": VALUE})
    task = await create(
        me.client,
        payload={
            "pipeline": [
                {"uses": "core.transform", "with": {"value": "Bearer ${secrets.TOKEN}"}},
                {"uses": "core.log", "with": {"message": "${secrets.TOKEN}"}},
            ]
        },
    )

    shown = await act(me.client, f"/tasks/{task['id']}/dry_run")

    assert [step["with"] for step in shown["steps"]] == [
        {"value": "Bearer ***"},
        {"message": "***"},
    ]
    assert shown["steps"][0]["output"] == "Bearer ***"
