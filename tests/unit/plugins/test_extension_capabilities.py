"""Each capability works when it is granted and is refused, by name, when it is not."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from extending import extension, host, shown, write
from ordinaut.errors import ExtensionError, StepError
from ordinaut.testing import ExtensionKit, extension_kit

ROUTES = """
router = APIRouter()
@router.get("/ping")
async def ping(): return {"pong": True}
return router
"""
TOOLS = """
async def add(a: int, b: int): return a + b
tool_registry.register("add", add)
"""
PUBLISH = """
async def tell(text: str): await context["events"].publish("told", {"text": text})
tool_registry.register("tell", tell)
"""
SUBSCRIBE = """
self.heard = []
@context["events"].subscribe("told")
async def hear(message): self.heard.append(message.data)
async def heard(): return self.heard
tool_registry.register("heard", heard)
"""
BACKGROUND = """
self.beats = 0
async def beat():
    while True:
        self.beats += 1
        await asyncio.sleep(0.001)
async def beats():
    while not self.beats: await asyncio.sleep(0.001)
    return self.beats
context["background"].run("beat", beat)
tool_registry.register("beats", beats)
"""
STATIC = "context['static'].mount('/files', 'files')"

USES = {  # what each capability is needed for, in setup()
    "ROUTES": ROUTES,
    "TOOLS": TOOLS,
    "EVENTS_PUB": "context['events'].publish",
    "EVENTS_SUB": "context['events'].subscribe('told', print)",
    "BACKGROUND_TASKS": "context['background'].run('beat', print)",
    "STATIC": STATIC,
}


def made(root: Path, wants: str, setup: str, **manifest: object) -> Path:
    folder = write(root, "demo", extension("demo", wants=wants, setup=setup), **manifest)
    (folder / "files").mkdir()
    (folder / "files" / "a.txt").write_text("text of a")
    return folder


def kit(root: Path, wants: str, setup: str) -> AbstractAsyncContextManager[ExtensionKit]:
    return extension_kit(made(root, wants, setup, grants=wants.split()))


async def test_granted_routes_are_served(tmp_path: Path) -> None:
    async with kit(tmp_path, "ROUTES", ROUTES) as one:
        answer = await one.client.get("/ping")
    assert (answer.status_code, answer.json()) == (200, {"pong": True})


async def test_granted_tools_can_be_called(tmp_path: Path) -> None:
    async with kit(tmp_path, "TOOLS", TOOLS) as one:
        assert await one.call("add", {"a": 2, "b": 3}) == 5
        assert await one.call("ext.demo.add", {"a": 2, "b": 3}) == 5


async def test_granted_events_leave_under_the_extensions_own_topic(tmp_path: Path) -> None:
    async with kit(tmp_path, "TOOLS EVENTS_PUB", PUBLISH) as one:
        await one.call("tell", {"text": "hello"})
        assert [(e.topic, e.data) for e in one.published] == [("ext.demo.told", {"text": "hello"})]


async def test_granted_subscriptions_receive_events(tmp_path: Path) -> None:
    async with kit(tmp_path, "TOOLS EVENTS_SUB", SUBSCRIBE) as one:
        await one.deliver("told", {"n": 1})
        assert await one.call("heard") == [{"n": 1}]


async def test_granted_background_tasks_run_and_are_seen(tmp_path: Path) -> None:
    async with kit(tmp_path, "TOOLS BACKGROUND_TASKS", BACKGROUND) as one:
        assert await one.call("beats") >= 1
        (task,) = one.description.background
        assert (task["name"], task["state"]) == ("beat", "running")


async def test_granted_static_files_are_served(tmp_path: Path) -> None:
    async with kit(tmp_path, "STATIC", STATIC) as one:
        assert (await one.client.get("/files/a.txt")).text == "text of a"
        assert (await one.client.get("/files/../extension.py")).status_code == 404


@pytest.mark.parametrize("missing", ["manifest", "request", "operator"])
@pytest.mark.parametrize("capability", USES)
async def test_what_was_not_granted_is_refused_by_name(
    tmp_path: Path, capability: str, missing: str
) -> None:
    wants = "" if missing == "request" else capability
    grants = [] if missing == "manifest" else [capability]
    options = {"grants": ""} if missing == "operator" else {}
    made(tmp_path, wants, USES[capability], grants=grants, eager=True)
    async with host(tmp_path, ext_options={"demo": options}) as running:
        one = shown(running, "demo")
    assert (one.state, one.grants) == ("failed", ())
    named = "EVENTS_PUB or EVENTS_SUB" if capability.startswith("EVENTS") else capability
    assert f"extension 'demo' was not granted {named}: it takes" in one.reason


async def test_publishing_is_refused_where_only_subscribing_was_granted(tmp_path: Path) -> None:
    async with kit(tmp_path, "TOOLS EVENTS_SUB", PUBLISH) as one:
        with pytest.raises(StepError, match="was not granted EVENTS_PUB"):
            await one.call("tell", {"text": "hello"})
        assert one.published == []


async def test_subscribing_is_refused_where_only_publishing_was_granted(tmp_path: Path) -> None:
    with pytest.raises(ExtensionError, match="was not granted EVENTS_SUB"):
        async with kit(tmp_path, "TOOLS EVENTS_PUB", SUBSCRIBE):
            pytest.fail("it started")


async def test_a_facade_that_was_not_granted_is_not_in_the_context(tmp_path: Path) -> None:
    setup = """
    assert "events" not in context and context.get("events") is None
    assert "config" in context
    assert grants == {Capability.TOOLS}
    """
    async with kit(tmp_path, "TOOLS", setup) as one:
        assert one.description.state == "started"


async def test_the_application_is_refused_to_who_has_no_routes(tmp_path: Path) -> None:
    with pytest.raises(ExtensionError, match="was not granted ROUTES"):
        async with kit(tmp_path, "STATIC", "app.get('/x')"):
            pytest.fail("it started")


@pytest.mark.parametrize("directory", ["..", "/etc", "files/../..", "nowhere"])
async def test_static_files_outside_of_the_folder_are_refused(
    tmp_path: Path, directory: str
) -> None:
    with pytest.raises(ExtensionError, match="is not a directory inside"):
        async with kit(tmp_path, "STATIC", f"context['static'].mount('/x', {directory!r})"):
            pytest.fail("it started")
