"""An Idempotency-Key: the same request has one effect and one answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from calling import TASK, AgentOf, assert_problem, create, rows
from ordinaut.store.database import Database

KEY = {"Idempotency-Key": "order-7"}


async def test_a_repeated_request_gets_the_first_answer_again(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    first = await admin.post("/tasks", json=TASK, headers=KEY)

    again = await admin.post("/tasks", json=TASK, headers=KEY)

    assert (again.status_code, again.content) == (201, first.content)
    for name in ("location", "etag", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert await rows(db, "SELECT count(*) FROM task") == [(1,)]


async def test_a_key_belongs_to_one_request_of_one_agent(
    admin: httpx2.AsyncClient, agent: AgentOf
) -> None:
    task = await create(admin)
    await admin.post("/tasks", json=TASK, headers=KEY)

    other_body = await admin.post("/tasks", json=TASK | {"title": "x"}, headers=KEY)
    other_place = await admin.post(f"/tasks/{task['id']}/run_now", headers=KEY)
    other_agent = await (await agent("tasks:write")).client.post("/tasks", json=TASK, headers=KEY)

    for answer in (other_body, other_place):
        problem = assert_problem(answer, status=422)
        assert problem["errors"][0]["path"] == "Idempotency-Key"
    assert other_agent.status_code == 201


async def test_a_request_that_was_refused_may_be_mended_under_its_key(
    admin: httpx2.AsyncClient,
) -> None:
    refused = await admin.post("/tasks", json=TASK | {"timezone": "Mars/Base"}, headers=KEY)

    mended = await admin.post("/tasks", json=TASK, headers=KEY)

    assert (refused.status_code, mended.status_code) == (422, 201)


async def test_of_equal_requests_at_once_one_has_the_effect(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    answers = await asyncio.gather(
        *(admin.post("/tasks", json=TASK, headers=KEY) for _ in range(8))
    )

    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({a.content for a in answers if a.status_code == 201}) == 1
    assert await rows(db, "SELECT count(*) FROM task") == [(1,)]


async def test_a_request_whose_twin_is_under_way_is_told_so(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    me = (await admin.get("/auth/me")).json()["id"]
    async with db.transaction() as tx:
        await tx.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{me} order-7"])

        answer = await admin.post("/tasks", json=TASK, headers=KEY)

    assert_problem(answer, status=409, code="conflict")


async def test_a_repeated_dedupe_and_a_run_out_of_turn_work_under_a_key(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    task = await create(admin, dedupe_key="a")
    body: dict[str, Any] = TASK | {"dedupe_key": "a"}

    repeated = [await admin.post("/tasks", json=body, headers=KEY) for _ in range(2)]
    headers = {"Idempotency-Key": "run"}
    address = f"/tasks/{task['id']}/run_now"
    runs = [await admin.post(address, json={"params": {}}, headers=headers) for _ in range(2)]

    assert [answer.status_code for answer in repeated] == [200, 200]
    assert runs[0].json() == runs[1].json()
    assert await rows(db, "SELECT count(*) FROM due_work") == [(1,)]


async def test_an_api_key_is_not_kept_with_the_answer(
    admin: httpx2.AsyncClient, db: Database
) -> None:
    body = {"name": "bot", "scopes": []}
    first = await admin.post("/agents", json=body, headers=KEY)

    again = await admin.post("/agents", json=body, headers=KEY)

    assert first.json()["api_key"].startswith("ord_")
    assert again.json() == first.json() | {"api_key": None}
    [(kept,)] = await rows(db, "SELECT body FROM idempotency")
    assert first.json()["api_key"].encode() not in bytes(kept)


async def test_keys_that_make_no_sense_are_refused(admin: httpx2.AsyncClient) -> None:
    for key in ("", "x" * 256, "a\tb"):
        answer = await admin.post("/tasks", json=TASK, headers={"Idempotency-Key": key})
        assert_problem(answer, status=422)


async def test_a_key_helps_nobody_in(client_of: Any) -> None:
    assert (await client_of().post("/tasks", json=TASK, headers=KEY)).status_code == 401
    assert (await client_of("x").post("/tasks", json=TASK, headers=KEY)).status_code == 401
