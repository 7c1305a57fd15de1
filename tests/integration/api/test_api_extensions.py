"""Extensions over the API: which of them run, how they are configured, what all processes do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from calling import AgentOf, assert_problem, client_to, settings_of
from extending import extension, shown, write
from ordinaut.config import Settings
from ordinaut.plugins.host import ExtensionHost
from ordinaut.store.database import Database
from queueing import rows

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "url": {"type": "string", "default": "none"},
        "depth": {"type": "integer"},
        "pinned": {"type": "string"},
        "names": {"type": "array", "items": {"type": "string"}},
    },
}
SETUP = """
config = context["config"]
async def show(): return config
tool_registry.register("show", show)
router = APIRouter()
router.get("/show")(show)
return router
"""
CONFIG = "/extensions/demo/config"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings with one extension that shows how it is configured."""
    code = extension("demo", wants="TOOLS ROUTES", setup=SETUP)
    write(tmp_path, "demo", code, grants=["TOOLS", "ROUTES"], config_schema=SCHEMA)
    given = {
        "ext_paths": (tmp_path,),
        "ext_options": {"demo": {"pinned": "here"}},
        "ext_disabled": "ray",
    }
    return settings_of(database_url).model_validate(settings_of(database_url).model_dump() | given)


@pytest.fixture
async def worker(settings: Settings, db: Database) -> AsyncIterator[ExtensionHost]:
    """The extensions of another process."""
    host = ExtensionHost(settings, db=db)
    await host.start_tools()
    yield host
    await host.stop()


async def configured(host: ExtensionHost) -> Any:
    return await host.tools.get("ext.demo.show").fn()


async def test_a_configuration_reaches_every_process_with_the_values_of_its_secrets(
    app: FastAPI, admin: httpx2.AsyncClient, worker: ExtensionHost, db: Database
) -> None:
    assert await configured(worker) == {"url": "none", "pinned": "here"}
    await admin.put("/secrets/TOKEN", json={"value": "s3cret-value"})
    given = {"url": "https://u:${secrets.TOKEN}@x", "names": ["${secrets.TOKEN}"], "depth": 3}

    answer = await admin.put(CONFIG, json={"config": given})

    assert (answer.status_code, answer.json()["config"]) == (202, given)
    host = app.state.services.host
    for one in (host, worker):
        await one.refresh()
        assert await configured(one) == {
            "url": "https://u:s3cret-value@x",
            "names": ["s3cret-value"],
            "depth": 3,
            "pinned": "here",
        }
    assert (await admin.get("/ext/demo/show")).json()["depth"] == 3
    shown_now = (await admin.get(CONFIG)).json()
    assert shown_now["config"] == given
    assert shown_now["config_schema"] == SCHEMA
    stored = await rows(db, "SELECT config::text FROM extension_config")
    assert "s3cret" not in str(stored)
    noted = await rows(db, "SELECT after FROM audit_log WHERE action = 'configure'")
    assert noted == [({"keys": ["depth", "names", "url"]},)]


async def test_a_changed_secret_reaches_the_extension_and_one_that_is_gone_stops_it(
    admin: httpx2.AsyncClient, worker: ExtensionHost
) -> None:
    await admin.put("/secrets/TOKEN", json={"value": "first"})
    await admin.put(CONFIG, json={"config": {"url": "${secrets.TOKEN}"}})
    await worker.refresh()
    await admin.put("/secrets/TOKEN", json={"value": "second"})
    await worker.refresh()
    assert (await configured(worker))["url"] == "second"
    await admin.delete("/secrets/TOKEN")
    await worker.refresh()
    assert (shown(worker, "demo").state, shown(worker, "demo").reason) == (
        "failed",
        "configuration: no secret TOKEN of who configured it",
    )
    await admin.put("/secrets/TOKEN", json={"value": "third"})
    await worker.refresh()
    assert (await configured(worker))["url"] == "third"


async def test_a_configuration_that_is_removed_leaves_the_settings(
    admin: httpx2.AsyncClient, worker: ExtensionHost
) -> None:
    await admin.put(CONFIG, json={"config": {"url": "x"}})
    await worker.refresh()
    assert (await admin.delete(CONFIG)).status_code == 204
    await worker.refresh()
    assert (await configured(worker))["url"] == "none"
    assert_problem(await admin.delete(CONFIG), status=404)
    assert (await admin.get(CONFIG)).json()["config"] == {}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"depth": "deep"}, "depth"),
        ({"nope": 1}, "nope"),
        ({"pinned": "there"}, "ORDINAUT_EXT_DEMO__PINNED"),
        ({"url": "${secrets.NOPE}"}, "no secret NOPE"),
    ],
)
async def test_a_wrong_configuration_is_refused_and_nothing_is_stored(
    admin: httpx2.AsyncClient, config: dict[str, Any], says: str
) -> None:
    answer = await admin.put(CONFIG, json={"config": config})

    assert_problem(answer, status=422)
    assert says in answer.text
    assert (await admin.get(CONFIG)).json()["updated_at"] is None


@pytest.mark.parametrize("pack", ["http", "mcp_client", "python", "ray", "shell", "sql"])
async def test_what_reaches_into_the_machine_is_configured_by_the_environment_alone(
    admin: httpx2.AsyncClient, pack: str
) -> None:
    answer = await admin.put(f"/extensions/{pack}/config", json={"config": {}})

    assert_problem(answer, status=403)
    assert f"ORDINAUT_EXT_{pack.upper()}__" in answer.text


async def test_an_extension_is_stopped_and_started_in_every_process(
    app: FastAPI, admin: httpx2.AsyncClient, worker: ExtensionHost
) -> None:
    answer = await admin.post("/extensions/demo/disable")
    assert (answer.status_code, answer.json()) == (202, {"id": "demo", "enabled": False})
    hosts = (app.state.services.host, worker)
    for host in hosts:
        await host.refresh()
        assert "ext.demo.show" not in host.tools
    assert_problem(await admin.get("/ext/demo/show"), status=503)
    await admin.post("/extensions/demo/enable")
    for host in hosts:
        await host.refresh()
        assert "ext.demo.show" in host.tools
    assert (await admin.get("/ext/demo/show")).status_code == 200
    assert_problem(await admin.post("/extensions/ray/enable"), status=409)
    assert_problem(await admin.post("/extensions/dem/enable"), status=404)


async def test_only_administrators_choose_and_configure(app: FastAPI, agent: AgentOf) -> None:
    member = await agent("system:read", "ext:demo:routes", "secrets:write:all")
    async with client_to(app, member.key) as client:
        assert (await client.get("/extensions")).status_code == 200
        for answer in (
            await client.post("/extensions/demo/disable"),
            await client.put(CONFIG, json={"config": {}}),
            await client.get(CONFIG),
        ):
            assert_problem(answer, status=403)


async def test_the_schema_of_the_version_before_has_no_configuration(
    db: Database, worker: ExtensionHost
) -> None:
    async with db.connection() as tx:
        await tx.execute("DROP TABLE extension_config")
        await tx.execute("INSERT INTO extension (id, enabled) VALUES ('demo', false)")
    await worker.refresh()
    assert shown(worker, "demo").state == "stopped"
