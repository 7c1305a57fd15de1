"""The tools by name: what each one takes and gives, and how it is called.

One registry serves extensions (which fill it), the API (which checks pipelines against it) and
workers (which call its tools).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import get_args

from ordinaut.engine.nearest import hint
from ordinaut.engine.processes import Place, place_of
from ordinaut.engine.schema import Schema
from ordinaut.engine.signature import Signature, ToolFunction, read_signature
from ordinaut.engine.tool import RunsIn, Tool
from ordinaut.errors import FieldProblem, InvalidInput
from ordinaut.model import Effect, Json

MAX_NAME = 128
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)+\Z", re.ASCII)


class UnknownTool(InvalidInput):
    """No tool has this name."""

    code = "unknown_tool"


class ToolRegistry:
    """Tools by name, in the order in which they were registered."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    def register(
        self,
        name: str,
        fn: ToolFunction,
        *,
        input_schema: Json = None,
        output_schema: Json = None,
        description: str = "",
        effect: Effect = "idempotent",
        timeout: float | None = None,
        examples: Sequence[Json] = (),
        runs_in: RunsIn = "thread",
    ) -> Tool:
        """Add a tool; schemas that are not given are read from its type hints.

        ``fn`` may be async, sync (it then runs in a thread) or an async generator (its last
        value is the output, ``Progress`` values before it are progress). It takes its arguments
        by keyword, or all of them as one ``dict`` when its only positional parameter is called
        ``arguments`` or ``args``. A parameter ``context`` gets the :class:`ToolContext`.

        A sync function that computes for long ``runs_in`` a process instead: the worker stays
        free, and the process is ended when the time of the call is over. It is a function of a
        module, and gets no ``context``.
        """
        self._check(name, fn, effect, timeout)
        read = read_signature(fn)
        place = _place(name, fn, read) if runs_in == "process" else None
        source = read.input_schema if input_schema is None else input_schema
        result = read.output_schema if output_schema is None else output_schema
        is_promise = output_schema is not None or read.dump is not None
        tool = Tool(
            name=name,
            fn=fn,
            kind=read.kind,
            style=read.style,
            wants_context=read.wants_context,
            input_schema=source,
            output_schema=result,
            description=description or read.description,
            effect=effect,
            timeout_seconds=None if timeout is None else float(timeout),
            examples=tuple(examples),
            takes=_compile(name, "input_schema", source),
            gives=_compile(name, "output_schema", result) if is_promise else None,
            prepare=read.prepare if input_schema is None else None,
            dump=read.dump if output_schema is None else None,
            place=place,
        )
        self._tools[name] = tool
        return tool

    def _check(self, name: str, fn: object, effect: str, timeout: float | None) -> None:
        problems = tuple(_registration_problems(name, fn, effect, timeout))
        if name in self._tools:
            problems += (FieldProblem("name", f'a tool "{name}" is registered already'),)
        if problems:
            text = "; ".join(problem.message for problem in problems)
            message = f"tool {name!r:.150} can not be registered: {text}"
            raise InvalidInput(message, problems=problems)

    def unregister(self, name: str) -> None:
        """Remove a tool; runs that reach a step of it fail from now on."""
        self._tools.pop(name, None)

    def get(self, name: str) -> Tool:
        """Return a tool; raise :class:`UnknownTool` that names the nearest one."""
        tool = self._tools.get(name)
        if tool is None:
            raise UnknownTool.at("uses", f'unknown tool "{name}"{hint(name, self._tools)}')
        return tool

    def find(self, name: str) -> Tool | None:
        """Return a tool, or ``None``."""
        return self._tools.get(name)

    def names(self) -> tuple[str, ...]:
        """Return the names of all tools, sorted."""
        return tuple(sorted(self._tools))

    def catalogue(self) -> list[dict[str, Json]]:
        """Return what ``GET /tools`` shows."""
        return [self._tools[name].describe() for name in self.names()]

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __iter__(self) -> Iterator[Tool]:
        return iter(tuple(self._tools.values()))

    def __len__(self) -> int:
        return len(self._tools)


def _registration_problems(
    name: object, fn: object, effect: object, timeout: object
) -> Iterator[FieldProblem]:
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.match(name):
        yield FieldProblem("name", 'a name has at least two parts, such as "http.request"')
    if not callable(fn):
        yield FieldProblem("fn", "the function can not be called")
    if effect not in get_args(Effect):
        yield FieldProblem("effect", f"effect is one of {', '.join(get_args(Effect))}")
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0
    ):
        yield FieldProblem("timeout", "timeout is a number of seconds above 0")


def _place(name: str, fn: ToolFunction, read: Signature) -> Place:
    if read.kind != "sync" or read.wants_context:
        raise InvalidInput.at(
            "runs_in", f'tool "{name}": a function that is sync and takes no context may run there'
        )
    try:
        return place_of(fn)
    except InvalidInput as error:
        raise InvalidInput.at("runs_in", f'tool "{name}": {error}') from None


def _compile(name: str, field: str, source: Json) -> Schema | None:
    if source is None or source is True or source == {}:
        return None
    try:
        return Schema(source)
    except InvalidInput as error:
        problems = tuple(
            FieldProblem(p.path.replace("schema", field, 1), p.message, p.code)
            for p in error.problems
        )
        raise InvalidInput(f'tool "{name}", {field}: {error}', problems=problems) from None
