"""One folder and one wheel, unchanged, in the processes of the API and of a worker."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
import zipfile
from pathlib import Path

import httpx2
import pytest

from calling import TASK, make_agent, served, settings_of
from extending import HELLO, write
from ordinaut.store.database import Database
from working import process, until

GREETER = """
    import asyncio
    from fastapi import APIRouter, Request
    from fastapi.responses import StreamingResponse
    from ordinaut.plugins.base import Capability, Extension, ExtensionInfo
    class Greeter(Extension):
        def info(self): return ExtensionInfo("{id}", "Greeter", "1.0.0")
        def requested_capabilities(self): return {{Capability.ROUTES, Capability.TOOLS}}
        def setup(self, *, tool_registry, **kwargs):
            async def greet(who: str) -> str: return f"{id} greets {{who}}"
            tool_registry.register("greet", greet)
            self.go = asyncio.Event()
            router = APIRouter()
            @router.post("/echo")
            async def echo(request: Request): return {{"size": len(await request.body())}}
            @router.get("/stream")
            async def stream():
                async def parts():
                    yield b"first"
                    await self.go.wait()
                    yield b"second"
                return StreamingResponse(parts())
            @router.post("/go")
            async def go(): self.go.set()
            return router
    def get_extension(): return Greeter()
"""
GRANTS = ["ROUTES", "TOOLS"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of all processes, into which a wheel was installed."""
    wheel = tmp_path / "wheeled-1.0.0-py3-none-any.whl"
    manifest = {"id": "wheeled", "name": "W", "version": "1.0.0", "grants": GRANTS}
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("wheeled/__init__.py", "")
        archive.writestr("wheeled/extension.py", textwrap.dedent(GREETER).format(id="wheeled"))
        archive.writestr("wheeled/extension.json", json.dumps(manifest))
        info = "wheeled-1.0.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: w\nVersion: 1.0.0\n")
        archive.writestr(
            f"{info}/entry_points.txt",
            "[ordinaut.plugins]\nwheeled = wheeled.extension:get_extension\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    return place


async def test_a_folder_and_a_wheel_work_unchanged_in_api_and_worker(
    tmp_path: Path, site: Path, db: Database, database_url: str
) -> None:
    folder = tmp_path / "outside"
    write(folder, "foldered", GREETER.format(id="foldered"), grants=GRANTS)
    write(folder, "hello", HELLO, grants=["ROUTES"])
    settings = settings_of(database_url).model_copy(update={"ext_paths": (folder,)})
    _, key = await make_agent(db, settings, "admin")
    headers = {"Authorization": f"Bearer {key}"}
    with process(database_url, tmp_path / "worker.log", ext_paths=folder):
        async with (
            served(settings, key) as server,
            httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client,
        ):
            # The seed's example, loaded by this very request.
            assert (await client.get("/ext/hello/hello")).json() == {"hello": "world"}
            for id in ("foldered", "wheeled"):
                await works(client, id)


async def works(client: httpx2.AsyncClient, id: str) -> None:
    echoed = await client.post(f"/ext/{id}/echo", content=b"x" * 500_000)
    assert echoed.json() == {"size": 500_000}
    async with asyncio.timeout(20), client.stream("GET", f"/ext/{id}/stream") as answer:
        parts = answer.aiter_raw()
        assert await anext(parts) == b"first"
        await client.post(f"/ext/{id}/go")
        assert await anext(parts) == b"second"
    pipeline = [{"id": "greet", "uses": f"ext.{id}.greet", "with": {"who": "Ana"}}]
    payload = {"pipeline": pipeline, "output": "${steps.greet}"}
    made = await client.post("/tasks", json=TASK | {"payload": payload})
    assert made.status_code == 201, made.text
    run = (await client.post(f"/tasks/{made.json()['id']}/run_now")).json()

    async def ended() -> bool:
        found = (await client.get(f"/runs/{run['id']}")).json()
        return bool(found["status"] == "succeeded" and found["output"] == f"{id} greets Ana")

    await until(ended, what=f"the tool of {id} ran in the worker", within=60)
