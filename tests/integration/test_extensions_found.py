"""Extensions that come from outside: a folder anywhere, a wheel with an entry point."""

from __future__ import annotations

import json
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import Scope

from extending import HELLO, settings, shown, write
from ordinaut.engine import calls
from ordinaut.plugins import loader
from ordinaut.plugins.host import ExtensionHost

GREETER = """
    from .words import greeting
    from fastapi import APIRouter
    from ordinaut.plugins.base import Capability, Extension, ExtensionInfo
    class Greeter(Extension):
        def info(self): return ExtensionInfo("greeter", "Greeter", "1.0.0")
        def requested_capabilities(self): return {Capability.ROUTES, Capability.TOOLS}
        def setup(self, *, app, mount_path, tool_registry, **kwargs):
            async def greet(name: str) -> str: return greeting(name)
            tool_registry.register("greet", greet)
            router = APIRouter()
            router.get("/greet/{name}")(greet)
            return router
    def get_extension(): return Greeter()
"""
WORDS = "def greeting(name): return f'Salut, {name}'\n"
MANIFEST = {
    "id": "greeter",
    "name": "Greeter",
    "version": "1.0.0",
    "grants": ["ROUTES", "TOOLS"],
}


def build_wheel(place: Path, *, manifest: bool = True) -> Path:
    """Build a wheel by hand: it is an archive with a few files of a known form."""
    wheel = place / "greeter-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greeter/__init__.py", "")
        archive.writestr("greeter/extension.py", textwrap.dedent(GREETER))
        archive.writestr("greeter/words.py", WORDS)
        if manifest:
            archive.writestr("greeter/extension.json", json.dumps(MANIFEST))
        info = "greeter-1.0.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0.0\n"
        )
        entry = "[ordinaut.plugins]\ngreeter = greeter.extension:get_extension\n"
        archive.writestr(f"{info}/entry_points.txt", entry)
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that wheels are installed into."""
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    yield place
    for name in [name for name in sys.modules if name.split(".")[0] == "greeter"]:
        del sys.modules[name]


def install(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


async def anyone(scope: Scope, needed: str) -> None:
    return None


async def greeting_by_route(host: ExtensionHost) -> str:
    app = FastAPI()
    app.mount("/ext", host.gateway)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/ext/greeter/greet/Ana")
    return str(answer.json())


async def greeting_by_tool(host: ExtensionHost) -> object:
    tool = host.tools.get("ext.greeter.greet")
    return await calls.call(tool, {"name": "Ana"}, seconds=5, context=None)


async def works_in_api_and_worker(*paths: Path) -> None:
    async with ExtensionHost(settings(ext_paths=paths), authorize=anyone) as api:
        assert await greeting_by_route(api) == "Salut, Ana"
        assert await greeting_by_tool(api) == "Salut, Ana"
    worker = ExtensionHost(settings(ext_paths=paths))
    await worker.start_tools()
    try:
        assert await greeting_by_tool(worker) == "Salut, Ana"
    finally:
        await worker.stop()


async def test_an_installed_wheel_works_in_api_and_worker(tmp_path: Path, site: Path) -> None:
    install(build_wheel(tmp_path), site)
    await works_in_api_and_worker()


async def test_a_folder_outside_of_the_repository_works_in_api_and_worker(tmp_path: Path) -> None:
    folder = write(tmp_path, "greeter", GREETER, **MANIFEST)
    (folder / "words.py").write_text(WORDS)
    await works_in_api_and_worker(folder)
    await works_in_api_and_worker(tmp_path)


def test_an_installed_extension_is_found_without_importing_it(tmp_path: Path, site: Path) -> None:
    install(build_wheel(tmp_path), site)
    found = [one for one in loader.discover() if one.id == "greeter"]
    assert [(one.source, one.usable.version) for one in found] == [("entry_point", "1.0.0")]
    assert "greeter.extension" not in sys.modules


async def test_an_entry_point_without_manifest_is_refused_with_a_reason(
    tmp_path: Path, site: Path
) -> None:
    install(build_wheel(tmp_path, manifest=False), site)
    async with ExtensionHost(settings()) as host:
        assert shown(host, "greeter").reason == "no extension.json beside greeter.extension"


async def test_a_folder_wins_over_an_installed_extension_of_its_id(
    tmp_path: Path, site: Path
) -> None:
    install(build_wheel(tmp_path), site)
    folder = write(tmp_path / "mine", "greeter", HELLO.replace("hello", "greeter"), grants=[])
    found = [one for one in loader.discover([folder]) if one.id == "greeter"]
    assert [(one.source, one.manifest is None) for one in found] == [
        ("path", False),
        ("entry_point", True),
    ]


def test_the_working_directory_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "extensions", "greeter", GREETER)
    write(tmp_path, "other", GREETER)
    monkeypatch.chdir(tmp_path)
    assert {one.source for one in loader.discover()} == {"built_in"}
