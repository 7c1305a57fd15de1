"""The tools of an MCP server that is a process of its own, over stdio and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ordinaut.devserver.ports import free_port
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.tool import ProgressReport
from ordinaut.errors import EffectUnknown, ExtensionError, InvalidArguments, ToolError
from ordinaut.plugins.facades import ToolFacade
from ordinaut.plugins.home import CoreHome
from ordinaut.plugins.schema import parse_manifest
from ordinaut.testing import ExtensionKit, extension_kit
from working import until

SERVER = Path(__file__).parent.parent / "mcp_server.py"
NAMES = ["add", "die", "files_slow", "no", "pay", "say"]


@dataclass
class Shop:
    """The server, as the operator names it, and what it was asked."""

    calls: Path
    port: int | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.port is not None:
            command = [sys.executable, str(SERVER), str(self.port)]
            env = {**os.environ, "MCP_CALLS": str(self.calls)}
            self.process = subprocess.Popen(command, env=env)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def named(self) -> dict[str, Any]:
        if self.port is None:
            env = {"MCP_CALLS": str(self.calls)}
            return {"command": sys.executable, "args": [str(SERVER)], "env": env}
        headers = {"Authorization": "Bearer let-me-in"}
        return {"url": f"http://127.0.0.1:{self.port}/mcp", "headers": headers}

    def asked(self) -> list[str]:
        """The calls that arrived, each as ``<tool> <idempotency key>``."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture(params=["stdio", "http"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    one = Shop(tmp_path / "calls", free_port() if request.param == "http" else None)
    one.start()
    yield one
    one.stop()


@asynccontextmanager
async def kit_of(
    shop: Shop, *, refresh: float = 300, **options: Any
) -> AsyncIterator[ExtensionKit]:
    servers = json.dumps({"shop": {**shop.named, **options}})
    config = {"servers": servers, "refresh_seconds": str(refresh)}
    async with extension_kit("mcp_client", config=config) as kit:
        await until_known(kit, "mcp.shop.say")
        yield kit


async def until_known(kit: ExtensionKit, tool: str) -> None:
    async def known() -> bool:
        return tool in kit.host.tools

    await until(known, what=f"{tool} is known")


async def test_the_tools_of_a_server_are_tools_of_pipelines(shop: Shop) -> None:
    async with kit_of(shop, effects={"say": "pure"}) as kit:
        assert kit.host.tools.names() == tuple(f"mcp.shop.{name}" for name in NAMES)
        tools = {tool.name.removeprefix("mcp.shop."): tool for tool in kit.host.tools}
        assert tools["add"].description == "Add two numbers."
        assert tools["add"].input_schema["required"] == ["a", "b"]
        assert (tools["add"].effect, tools["say"].effect) == ("idempotent", "pure")
        assert tools["pay"].effect == "at_most_once"

        assert await kit.call("mcp.shop.add", {"a": 1, "b": 2}) == {"sum": 3}
        said = await kit.call("mcp.shop.say", {"to": "Ana"})
        assert said["text"] == "hello\n{'to': 'Ana'}"
        assert said["content"][0] == {"type": "text", "text": "hello"}
    assert len(kit.host.tools) == 0


async def test_each_call_carries_its_idempotency_key(shop: Shop) -> None:
    async with kit_of(shop) as kit:
        await kit.call("mcp.shop.add", {"a": 1, "b": 2})
        await kit.call("mcp.shop.say", {})
    first, second = shop.asked()
    assert first.startswith("add ")
    assert first.endswith(":step")
    assert first.split()[1] != second.split()[1]


async def test_arguments_are_checked_before_anything_is_sent(shop: Shop) -> None:
    async with kit_of(shop) as kit:
        with pytest.raises(InvalidArguments, match=r"with\.a"):
            await kit.call("mcp.shop.add", {"a": "1", "b": 2})
    assert shop.asked() == []


async def test_progress_of_a_server_is_progress_of_the_run(shop: Shop) -> None:
    async with kit_of(shop) as kit:
        await kit.call("mcp.shop.files_slow", {})
        reports = [one for one in kit.reports if isinstance(one, ProgressReport)]
    assert [(one.fraction, one.message) for one in reports] == [(0.5, "step 1"), (1.0, "step 2")]


async def test_what_a_server_refuses_is_an_error_with_its_words(shop: Shop) -> None:
    async with kit_of(shop, effects={"pay": "idempotent"}) as kit:
        with pytest.raises(ToolError, match="the shelf is empty") as caught:
            await kit.call("mcp.shop.no", {})
    assert caught.value.retryable


async def test_a_server_that_died_is_connected_to_again(shop: Shop) -> None:
    async with kit_of(shop) as kit:
        with pytest.raises(ToolError, match="connection was lost") as caught:
            await kit.call("mcp.shop.die", {})
        assert caught.value.retryable
        shop.stop()
        shop.start()

        async def says() -> bool:
            with suppress(ToolError):
                return bool(await kit.call("mcp.shop.say", {}))
            return False

        await until(says, what="it is connected to again")


async def test_tools_come_and_go_as_the_server_lists_them(shop: Shop) -> None:
    late = shop.calls.with_name("late")
    async with kit_of(shop, refresh=0.1) as kit:
        unchanged = kit.host.tools.get("mcp.shop.say")
        late.touch()
        await until_known(kit, "mcp.shop.late")
        assert (await kit.call("mcp.shop.late", {}))["text"].startswith("hello")
        late.unlink()

        async def gone() -> bool:
            return "mcp.shop.late" not in kit.host.tools

        await until(gone, what="the tool is gone")
        assert kit.host.tools.get("mcp.shop.say") is unchanged


async def test_a_call_that_was_lost_and_must_not_be_repeated_is_for_a_person(shop: Shop) -> None:
    async with kit_of(shop) as kit:
        with pytest.raises(EffectUnknown, match="may or may not have happened"):
            await kit.call("mcp.shop.pay", {})
    assert [call.split()[0] for call in shop.asked()] == ["pay"]


async def test_a_server_that_is_away_keeps_nothing_from_starting(tmp_path: Path) -> None:
    away = Shop(tmp_path / "calls", free_port())
    broken = {"command": str(tmp_path / "no-such-program")}
    servers = json.dumps({"shop": away.named, "broken": broken})
    async with extension_kit("mcp_client", config={"servers": servers}) as kit:
        assert kit.host.tools.names() == ()
        away.start()
        try:
            await until_known(kit, "mcp.shop.say")
        finally:
            away.stop()


@pytest.mark.parametrize(
    "server",
    [
        {},
        {"url": "ftp://example.org"},
        {"url": "http://example.org/mcp", "command": "x"},
        {"command": "x", "headers": {}},
        {"url": "http://example.org/mcp", "effects": {"pay": "twice"}},
    ],
)
async def test_a_server_that_is_not_described_is_refused(server: Any) -> None:
    with pytest.raises(ExtensionError, match="ORDINAUT_EXT_MCP_CLIENT__"):
        async with extension_kit("mcp_client", config={"servers": json.dumps({"shop": server})}):
            pass


async def hello() -> str:
    return "hello"


def test_tools_that_come_late_leave_with_their_extension() -> None:
    registry = ToolRegistry()
    manifest = parse_manifest('{"id": "late", "name": "Late", "version": "1"}')
    tools = ToolFacade(manifest, CoreHome())
    tools.register("early", hello)
    tools.register("never", hello)
    tools.unregister("never")
    tools.commit(registry)
    tools.register("late", hello)
    assert registry.names() == tools.names() == ("ext.late.early", "ext.late.late")

    tools.unregister("early")
    assert registry.names() == ("ext.late.late",)
    tools.withdraw()
    tools.withdraw()
    assert registry.names() == tools.names() == ()
    with pytest.raises(ExtensionError, match="stopped"):
        tools.register("too_late", hello)
