"""One program: started without a shell, held to its limits, ended with all its children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ordinaut.plugins.base import Json, ToolError

DEFAULT_TIMEOUT = 60.0  # seconds
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PART = 65_536
KEPT_FOR_ERROR = 2000  # characters of the output that go into the run record

OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["exit_code", "stdout", "stderr"],
    "properties": {
        "exit_code": {"type": "integer"},
        "stdout": {"type": "string"},
        "stderr": {"type": "string"},
    },
}
INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["command"],
    "additionalProperties": False,
    "properties": {
        "command": {"type": "string", "description": "A name of the operator's list."},
        "args": {
            "type": "array",
            "maxItems": 1000,
            "items": {"type": ["string", "number", "boolean"]},
        },
        "stdin": {"type": "string"},
        "env": {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": {"type": "string"},
        },
        "timeout_seconds": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 86_400,
            "default": DEFAULT_TIMEOUT,
        },
        "raise_on_exit": {
            "type": "boolean",
            "default": True,
            "description": "Whether an exit code other than 0 fails the step.",
        },
    },
}


@dataclass(frozen=True, slots=True)
class Programs:
    """What may be run, and how much it may use; the fields are the configuration."""

    commands: Mapping[str, str]
    directory: str
    max_output_bytes: int
    max_memory_bytes: int
    max_cpu_seconds: int
    max_files: int

    async def run(self, arguments: dict[str, Json]) -> Json:
        """Run one program and return ``{exit_code, stdout, stderr}``."""
        limit = arguments.get("timeout_seconds", DEFAULT_TIMEOUT)
        process = await self._start(arguments)
        try:
            async with asyncio.timeout(limit):
                answer = await self._finish(process, arguments.get("stdin", ""))
        except TimeoutError:
            text = f"{arguments['command']} did not end within {limit:g} s and was killed"
            raise ToolError(text, retryable=False) from None
        finally:
            await _kill(process)
        if answer["exit_code"] and arguments.get("raise_on_exit", True):
            raise _failure(arguments["command"], answer)
        return answer

    async def _start(self, arguments: dict[str, Json]) -> asyncio.subprocess.Process:
        program = self._program(arguments["command"])
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *map(_word, arguments.get("args", [])),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self.directory,
                # Nothing of our own environment: it holds the secrets of the installation.
                env={"PATH": PATH, "LANG": "C.UTF-8", **arguments.get("env", {})},
                start_new_session=True,
                limit=PART,
            )
        except (OSError, ValueError) as error:
            raise ToolError(f"{program} can not be started: {error}", retryable=False) from None
        self._restrain(process.pid)
        return process

    def _program(self, name: str) -> str:
        if name not in self.commands:
            known = ", ".join(sorted(self.commands)) or "none"
            raise ToolError(
                f"no command {name!r}; the operator listed: {known} (ORDINAUT_EXT_SHELL__COMMANDS)",
                retryable=False,
            )
        return self.commands[name]

    def _restrain(self, pid: int) -> None:
        limits = {
            resource.RLIMIT_AS: self.max_memory_bytes,
            resource.RLIMIT_CPU: self.max_cpu_seconds,
            resource.RLIMIT_NOFILE: self.max_files,
            resource.RLIMIT_CORE: 0,
        }
        if not hasattr(resource, "prlimit"):
            return  # macOS: only the time limit holds there
        for kind, most in limits.items():
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                resource.prlimit(pid, kind, (most, most))

    async def _finish(self, process: asyncio.subprocess.Process, stdin: str) -> dict[str, Json]:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(_feed(process.stdin, stdin.encode()))
            out = group.create_task(self._read(process.stdout))
            err = group.create_task(self._read(process.stderr))
        return {
            "exit_code": await process.wait(),
            "stdout": _text(out.result()),
            "stderr": _text(err.result()),
        }

    async def _read(self, stream: asyncio.StreamReader) -> bytes:
        """Read to the end, and keep what fits."""
        kept = bytearray()
        while part := await stream.read(PART):
            kept += part[: self.max_output_bytes - len(kept)]
        return bytes(kept)


async def _feed(stdin: asyncio.StreamWriter, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it does not read
        stdin.write(content)
        await stdin.drain()
    stdin.close()


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End the program and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _word(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _failure(command: str, answer: dict[str, Json]) -> ToolError:
    code = answer["exit_code"]
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    details = {
        "exit_code": code,
        "stdout": answer["stdout"][-KEPT_FOR_ERROR:],
        "stderr": answer["stderr"][-KEPT_FOR_ERROR:],
    }
    return ToolError(f"{command} {how}", retryable=False, details=details)
