"""Agents: whose things they see, what they may hand out, what stays of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import get_args

import httpx2
import pytest

from calling import TASK, AgentOf, ClientOf, act, assert_problem, create
from ordinaut.api.schemas.agents import Role
from ordinaut.api.scopes import KNOWN, ROLES
from ordinaut.clock import TravelClock
from ordinaut.config import Settings
from ordinaut.model import uuid7
from ordinaut.store import agents
from ordinaut.store.database import Database


async def test_an_agent_sees_and_changes_its_own_tasks_alone(agent: AgentOf) -> None:
    scopes = ("tasks:read", "tasks:write", "tasks:run", "runs:read", "runs:write")
    ann, bob = await agent(*scopes), await agent(*scopes)
    task = await create(ann.client)
    run = await act(ann.client, f"/tasks/{task['id']}/run_now", 202)
    for method, address, body in (
        ("GET", f"/tasks/{task['id']}", None),
        ("PATCH", f"/tasks/{task['id']}", {"title": "mine"}),
        ("PUT", f"/tasks/{task['id']}", {k: task[k] for k in ("title", "schedule_kind")}),
        ("DELETE", f"/tasks/{task['id']}", None),
        ("POST", f"/tasks/{task['id']}/run_now", None),
        ("POST", f"/tasks/{task['id']}/pause", None),
        ("POST", f"/tasks/{task['id']}/resume", None),
        ("POST", f"/tasks/{task['id']}/cancel", None),
        ("POST", f"/tasks/{task['id']}/snooze", {"seconds": 60}),
        ("POST", f"/tasks/{task['id']}/dry_run", None),
        ("GET", f"/tasks/{task['id']}/occurrences", None),
        ("GET", f"/runs/{run['id']}", None),
        ("POST", f"/runs/{run['id']}/cancel", None),
        ("POST", f"/runs/{run['id']}/retry", None),
    ):
        answer = await bob.client.request(method, address, json=body)
        expected = 422 if method == "PUT" else 404
        assert (answer.status_code, method, address) == (expected, method, address)
    for address in ("/tasks", "/runs"):
        assert (await bob.client.get(address)).json()["items"] == []
    assert (await bob.client.get("/runs/stats")).json()["counts"] == {}
    bulk = {"action": "cancel", "filter": {"ids": [task["id"]]}}
    assert (await bob.client.post("/tasks/bulk", json=bulk)).json()["matched"] == 0
    assert (await ann.client.get(f"/tasks/{task['id']}")).json() == task


async def test_the_scope_all_opens_the_tasks_of_others(agent: AgentOf) -> None:
    owner = await agent("tasks:write")
    reader = await agent("tasks:read:all")
    task = await create(owner.client)

    assert (await reader.client.get(f"/tasks/{task['id']}")).status_code == 200
    assert (await reader.client.patch(f"/tasks/{task['id']}", json={})).status_code == 403


async def test_nobody_hands_out_or_takes_more_than_he_holds(
    admin: httpx2.AsyncClient, agent: AgentOf
) -> None:
    helper = await agent("agents:admin", "tasks:read")
    boss = (await admin.get("/auth/me")).json()["id"]
    mine = await act(helper.client, "/agents", 201, name="mine", scopes=["tasks:read"])
    for method, address, body in (
        ("POST", "/agents", {"name": "evil", "scopes": ["admin"]}),
        ("POST", "/agents", {"name": "evil", "scopes": ["tasks:read:all"]}),
        ("PATCH", f"/agents/{mine['id']}", {"scopes": ["admin"]}),
        ("PATCH", f"/agents/{helper.id}", {"scopes": ["agents:admin", "system:read"]}),
        ("PATCH", f"/agents/{boss}", {"scopes": []}),
        ("DELETE", f"/agents/{boss}", None),
        ("POST", f"/agents/{boss}/keys", {}),
    ):
        answer = await helper.client.request(method, address, json=body)
        assert (answer.status_code, method, address) == (403, method, address)
    assert (await helper.client.patch(f"/agents/{mine['id']}", json={"scopes": []})).is_success


async def test_keys_are_made_listed_and_revoked(
    admin: httpx2.AsyncClient, client_of: ClientOf, clock: TravelClock
) -> None:
    made = await act(admin, "/agents", 201, name="bot", scopes=["tasks:read"])
    address = f"/agents/{made['id']}/keys"
    soon = (clock.now() + timedelta(hours=1)).isoformat()
    second = await act(admin, address, 201, name="second", expires_at=soon)

    assert (await client_of(second["api_key"]).get("/auth/me")).status_code == 200
    listed = (await admin.get(address)).json()["items"]
    assert [key["name"] for key in listed] == ["second", "first"]
    assert not any("api_key" in key for key in listed)
    clock.move(timedelta(hours=1))
    assert (await client_of(second["api_key"]).get("/auth/me")).status_code == 401
    assert (await client_of(made["api_key"]).get("/auth/me")).status_code == 200
    assert (await admin.delete(f"{address}/{listed[1]['id']}")).status_code == 204
    assert (await client_of(made["api_key"]).get("/auth/me")).status_code == 401
    assert (await admin.delete(f"{address}/{listed[1]['id']}")).status_code == 404
    late = await admin.post(address, json={"expires_at": "2020-01-01T00:00:00Z"})
    assert late.json()["errors"][0]["path"] == "expires_at"


async def test_a_deleted_agent_leaves_its_tasks_and_traces(
    admin: httpx2.AsyncClient, agent: AgentOf
) -> None:
    member = await agent("tasks:write", name="gone")
    task = await create(member.client)

    assert (await admin.delete(f"/agents/{member.id}")).status_code == 204

    assert (await member.client.get("/auth/me")).status_code == 401
    assert (await admin.get(f"/agents/{member.id}")).status_code == 404
    assert (await admin.get(f"/tasks/{task['id']}")).json()["created_by"] == member.id
    entries = (await admin.get("/audit", params={"actor_id": member.id})).json()["items"]
    assert [(e["actor"], e["action"]) for e in entries] == [("gone", "task.create")]
    assert (await act(admin, "/agents", 201, name="gone"))["name"] == "gone"


async def test_agents_that_make_no_sense_are_refused(admin: httpx2.AsyncClient) -> None:
    await act(admin, "/agents", 201, name="bot")
    for body, status, path in (
        ({"name": ""}, 422, "name"),
        ({"name": "x", "scopes": ["tasks:raed"]}, 422, "scopes[0]"),
        ({"name": "x", "scopes": ["ext:../x:routes"]}, 422, "scopes[0]"),
        ({"name": "x", "scopes": "admin"}, 422, "scopes"),
        ({"name": "x", "id": str(uuid7())}, 422, "id"),
        ({"name": "bot"}, 409, None),
    ):
        answer = await admin.post("/agents", json=body)
        problem = assert_problem(answer, status=status)
        assert path is None or problem["errors"][0]["path"] == path


async def test_a_bootstrap_makes_one_admin_however_often_it_runs(
    db: Database, settings: Settings, client_of: ClientOf
) -> None:
    key, pepper = agents.new_key(), agents.pepper(settings)
    found = set()
    for _ in range(2):
        async with db.transaction() as tx:
            made = await agents.bootstrap(tx, name="root", api_key=key, pepper=pepper)
            found.add(made.id)
    async with db.transaction() as tx:
        other = await agents.bootstrap(tx, name="root", api_key=agents.new_key(), pepper=pepper)

    assert found == {other.id}
    assert (await client_of(key).get("/auth/me")).json()["scopes"] == ["admin"]


async def test_the_audit_log_names_who_acted_and_from_where(
    admin: httpx2.AsyncClient, agent: AgentOf
) -> None:
    member = await agent("tasks:write", name="ann")
    headers = {"X-Request-ID": "my-id"}

    answer = await member.client.post("/tasks", json=TASK, headers=headers)

    assert answer.headers["x-request-id"] == "my-id"
    [entry] = (await admin.get("/audit", params={"action": "task.create"})).json()["items"]
    assert (entry["actor"], entry["actor_id"]) == ("ann", member.id)
    assert (entry["request_id"], entry["address"]) == ("my-id", "127.0.0.1")


async def test_the_audit_log_of_others_is_for_administrators(
    admin: httpx2.AsyncClient, agent: AgentOf
) -> None:
    watcher = await agent("system:read", "tasks:write")
    await create(admin)
    task = await create(watcher.client)

    own = (await watcher.client.get("/audit")).json()["items"]
    others = {"actor_id": (await admin.get("/auth/me")).json()["id"]}

    assert [entry["entity_id"] for entry in own] == [task["id"]]
    assert (await watcher.client.get("/audit", params=others)).json()["items"] == own
    assert len((await admin.get("/audit")).json()["items"]) == 2


async def test_roles_stand_for_scopes(agent: AgentOf) -> None:
    root = await agent("admin")
    made = await root.client.post(
        "/agents", json={"name": "ana", "roles": ["viewer"], "scopes": ["system:read"]}
    )
    assert made.json()["scopes"] == ["events:read", "runs:read", "system:read", "tasks:read"]

    changed = await root.client.patch(f"/agents/{made.json()['id']}", json={"roles": ["author"]})
    assert set(changed.json()["scopes"]) == set(ROLES["author"])
    unknown = await root.client.post("/agents", json={"name": "x", "roles": ["root"]})
    assert_problem(unknown, status=422)


@pytest.mark.parametrize("role", ["operator", "administrator"])
async def test_nobody_gives_a_role_that_is_more_than_he_holds(agent: AgentOf, role: str) -> None:
    clerk = await agent("agents:admin", *ROLES["author"])
    assert (await clerk.client.post("/agents", json={"name": "a", "roles": ["author"]})).is_success

    answer = await clerk.client.post("/agents", json={"name": "b", "roles": [role]})

    assert_problem(answer, status=403)


def test_roles_hold_scopes_that_exist_and_are_documented() -> None:
    assert set(get_args(Role)) == ROLES.keys()
    for scopes in ROLES.values():
        assert set(scopes) <= set(KNOWN)
    page = (Path(__file__).parents[3] / "docs/guides/api.md").read_text()
    assert all(f"| `{role}` |" in page for role in ROLES)
