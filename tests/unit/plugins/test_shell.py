"""shell.run with real programs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from extending import shown
from ordinaut.config import load_settings
from ordinaut.errors import InvalidArguments, ToolError
from ordinaut.plugins.host import ExtensionHost
from ordinaut.testing import ExtensionKit, extension_kit

COMMANDS = {
    "echo": "/bin/echo",
    "cat": "/bin/cat",
    "env": "/usr/bin/env",
    "sh": "/bin/sh",
    "python": sys.executable,
    "missing": "/nowhere/at/all",
}
LIMITS = {"max_output_bytes": "1000", "max_memory_bytes": "134217728", "max_cpu_seconds": "1"}


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[ExtensionKit]:
    config = {"commands": json.dumps(COMMANDS), "directory": str(tmp_path), **LIMITS}
    async with extension_kit("shell", config=config) as one:
        yield one


async def run(kit: ExtensionKit, command: str, *args: Any, **given: Any) -> Any:
    return await kit.call("shell.run", {"command": command, "args": list(args), **given})


def is_alive(pid: str) -> bool:
    try:
        return Path("/proc", pid.strip(), "stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_it_is_off_until_the_operator_says_otherwise() -> None:
    environ = {
        "DATABASE_URL": "postgresql://none.invalid/none",
        "REDIS_URL": "redis://none.invalid",
        "ORDINAUT_SECRET": "s" * 32,
    }
    async with ExtensionHost(load_settings(environ)) as host:
        assert "shell.run" not in host.tools
        assert shown(host, "shell").enabled is False
    environ["ORDINAUT_EXT_SHELL__ENABLED"] = "true"
    async with ExtensionHost(load_settings(environ)) as host:
        assert "shell.run" in host.tools


async def test_arguments_reach_the_program_as_they_are(kit: ExtensionKit) -> None:
    answer = await run(kit, "echo", "$HOME", "`id`", "a; rm -rf /", "*", 3, True)
    assert answer == {"exit_code": 0, "stdout": "$HOME `id` a; rm -rf / * 3 true\n", "stderr": ""}


async def test_input_goes_in_and_the_directory_is_the_operators(
    kit: ExtensionKit, tmp_path: Path
) -> None:
    assert (await run(kit, "cat", stdin="salut"))["stdout"] == "salut"
    assert (await run(kit, "sh", "-c", "pwd"))["stdout"].strip() == str(tmp_path)


async def test_our_own_environment_stays_here(
    kit: ExtensionKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDINAUT_SECRET", "very secret")
    lines = (await run(kit, "env", env={"MINE": "yes"}))["stdout"].splitlines()
    assert {line.split("=")[0] for line in lines} == {"PATH", "LANG", "MINE"}


@pytest.mark.parametrize("command", ["rm", "/bin/echo", "", "echo\0"])
async def test_what_is_not_listed_is_refused(kit: ExtensionKit, command: str) -> None:
    with pytest.raises(ToolError, match="no command") as refused:
        await run(kit, command)
    assert not refused.value.retryable


async def test_a_program_that_is_not_there_is_an_error(kit: ExtensionKit) -> None:
    with pytest.raises(ToolError, match="can not be started"):
        await run(kit, "missing")
    with pytest.raises(ToolError, match="can not be started"):
        await run(kit, "echo", "a\0b")


async def test_an_exit_code_fails_the_step_with_what_was_said(kit: ExtensionKit) -> None:
    with pytest.raises(ToolError, match="exit code 3") as failed:
        await run(kit, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert failed.value.details == {"exit_code": 3, "stdout": "out\n", "stderr": "err\n"}
    assert not failed.value.retryable
    answer = await run(kit, "sh", "-c", "exit 3", raise_on_exit=False)
    assert answer["exit_code"] == 3


async def test_long_output_is_cut_without_stopping_the_program(kit: ExtensionKit) -> None:
    answer = await run(kit, "python", "-c", "print('x' * 1000000); print('y', end='')")
    assert answer["stdout"] == "x" * 1000


async def test_output_that_is_no_text_can_be_stored(kit: ExtensionKit) -> None:
    code = "import sys; sys.stdout.buffer.write(b'a\\x00\\xff')"
    assert (await run(kit, "python", "-c", code))["stdout"] == "a��"


async def test_a_program_that_does_not_end_is_killed_with_its_children(
    kit: ExtensionKit, tmp_path: Path
) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(ToolError, match="was killed"):
        await run(kit, "sh", "-c", script, timeout_seconds=0.5)
    assert not is_alive((tmp_path / "child").read_text())


async def test_cancelling_the_step_kills_the_program(kit: ExtensionKit, tmp_path: Path) -> None:
    running = asyncio.create_task(run(kit, "sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 60"))
    pid = tmp_path / "pid"
    for _ in range(500):
        if pid.exists() and pid.read_text():
            break
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not is_alive(pid.read_text())


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no prlimit")
async def test_memory_and_processor_are_limited(kit: ExtensionKit) -> None:
    with pytest.raises(ToolError, match="exit code 1") as failed:
        await run(kit, "python", "-c", "import time; time.sleep(0.3); 'x' * 500_000_000")
    assert "MemoryError" in str(failed.value.details["stderr"])
    with pytest.raises(ToolError, match=r"ended by signal (9|24)"):
        await run(kit, "python", "-c", "while True: pass", timeout_seconds=30)


@pytest.mark.parametrize(
    "given", [{"env": {"A=B": "x"}}, {"env": {"": "x"}}, {"args": [{}]}, {"shell": True}]
)
async def test_arguments_that_make_no_sense_are_refused(
    kit: ExtensionKit, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArguments):
        await kit.call("shell.run", {"command": "echo", **given})
