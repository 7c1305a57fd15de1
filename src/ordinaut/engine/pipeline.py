"""From a payload to a :class:`Pipeline`: every check that needs no run.

All problems are collected, so one answer names them all, each with its place
(``payload.pipeline[2].with.url``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from ordinaut.engine import values
from ordinaut.engine.expression import Expression
from ordinaut.engine.fields import Problems
from ordinaut.engine.nearest import hint
from ordinaut.engine.probe import check_effect, has_probe, parse_probe
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.scanner import parse_bare
from ordinaut.engine.scope import Scope
from ordinaut.engine.steps import BackoffPolicy, Foreach, OnError, Pipeline, Probe, Step, WaitFor
from ordinaut.engine.template import (
    Condition,
    Template,
    parse_condition,
    parse_template,
)
from ordinaut.engine.tool import Tool
from ordinaut.engine.waiting import parse_wait
from ordinaut.errors import InvalidPipeline
from ordinaut.model import Backoff, Json

MAX_STEPS = 500
MAX_GROUP_DEPTH = 4
MAX_TIMEOUT_SECONDS = 7 * 24 * 3600
RETRIES = range(101)
AT_ONCE = range(1, 101)

PAYLOAD_KEYS = ("params", "probe", "pipeline", "output")
STEP_KEYS = (
    "id",
    "uses",
    "with",
    "save_as",
    "if",
    "timeout_seconds",
    "max_retries",
    "backoff",
    "foreach",
    "max_parallel",
    "parallel",
    "on_error",
    "wait_for",
)
APPROVAL_TOOL = "approval.request"  # suspends the run, which only the engine can do
_APPROVAL_KEYS = ("id", "uses", "with", "save_as", "if", "on_error")
_TOOL_KEYS = ("with", "timeout_seconds", "max_retries", "backoff", "foreach")


def parse_pipeline(
    payload: Json, *, registry: ToolRegistry | None, max_steps: int = MAX_STEPS
) -> Pipeline:
    """Parse and check a payload; raise :class:`InvalidPipeline` with all its problems.

    Without a ``registry`` the tools and their arguments are not checked.
    """
    problems = Problems()
    parsed = _PayloadParser(problems, registry, max_steps=max_steps).parse(payload)
    if parsed is None or problems.found:
        raise problems.error(InvalidPipeline, "the pipeline can not be used")
    return parsed


class _PayloadParser:
    def __init__(
        self, problems: Problems, registry: ToolRegistry | None, *, max_steps: int
    ) -> None:
        self._problems = problems
        self._registry = registry
        self._max_steps = max_steps
        self._scope = Scope(problems)

    def parse(self, payload: Json) -> Pipeline | None:
        if not isinstance(payload, dict):
            self._problems.add("payload", f"a payload is an object, not {values.kind_of(payload)}")
            return None
        self._problems.unknown_keys(payload, PAYLOAD_KEYS, path="payload")
        params = self._params(payload.get("params", {}))
        raw = payload.get("pipeline")
        if not isinstance(raw, list) or not raw:
            self._problems.add("payload.pipeline", "a pipeline is a list of at least one step")
            return None
        if not self._declare_all(raw):
            return None
        probe = self._probe(payload.get("probe"), "payload.probe")
        with self._scope.inside(probe=payload.get("probe") is not None):
            steps = tuple(self._steps(raw, "payload.pipeline", depth=0))
            output = self._output(payload)
        parsed = Pipeline(params=params, steps=steps, probe=probe, output=output)
        return replace(parsed, secrets=parsed.named_secrets())

    def _params(self, raw: Json) -> dict[str, Json]:
        if not isinstance(raw, dict):
            self._problems.add("payload.params", f"params is an object, not {values.kind_of(raw)}")
            return {}
        try:
            return dict(values.copy_json(raw))
        except values.NotJson as error:
            self._problems.add(f"payload.params{error.path}", error.message)
            return {}

    def _probe(self, raw: Json, path: str) -> Probe | None:
        if not has_probe(raw, path, problems=self._problems):
            return None
        tool = self._tool(raw, path)
        check_effect(tool, path, problems=self._problems)
        arguments, checked = self._call(raw, tool, path)
        return parse_probe(raw, path, problems=self._problems, arguments=arguments, checked=checked)

    def _output(self, payload: Mapping[str, Json]) -> Template | None:
        if payload.get("output") is None:
            return None
        return self._template(payload["output"], "payload.output")

    def _declare_all(self, raw: list[Json]) -> bool:
        """Learn all names first, so that a forward reference is told from a mistyped one."""
        count = 0
        for step, _, default in _walk(raw, "payload.pipeline"):
            count += 1
            for name in (step.get("id", default), step.get("save_as")):
                if isinstance(name, str):
                    self._scope.expect(name)
        if count > self._max_steps:
            message = f"{count} steps are more than the limit of {self._max_steps}"
            self._problems.add("payload.pipeline", message)
        return count <= self._max_steps

    def _steps(self, raw: list[Json], path: str, *, depth: int) -> Iterator[Step]:
        for index, item in enumerate(raw):
            step = self._step(item, f"{path}[{index}]", f"step_{index + 1}", depth=depth)
            if step is not None:
                yield step
                self._scope.reveal(step)

    def _step(self, raw: Json, path: str, default_id: str, *, depth: int) -> Step | None:
        if not isinstance(raw, dict):
            self._problems.add(path, f"a step is an object, not {values.kind_of(raw)}")
            return None
        self._problems.unknown_keys(raw, STEP_KEYS, path=path)
        step_id = self._problems.name(raw.get("id", default_id), f"{path}.id")
        save_as = None if raw.get("save_as") is None else raw["save_as"]
        if save_as is not None:
            save_as = self._problems.name(save_as, f"{path}.save_as")
        self._scope.declare(step_id, save_as, path=path)
        self._check_combination(raw, path)
        with self._scope.inside(item=True if "foreach" in raw else None):
            return self._body(raw, path, step_id, save_as, depth)

    def _body(
        self, raw: Mapping[str, Json], path: str, step_id: str, save_as: str | None, depth: int
    ) -> Step:
        common: dict[str, Any] = {
            "id": step_id,
            "path": path,
            "save_as": save_as,
            "condition": self._condition(raw, path),
            "on_error": self._on_error(raw, path, step_id, depth),
        }
        if raw.get("uses") == APPROVAL_TOOL:
            return Step(**common, wait_for=self._approval(raw, path))
        arguments, checked = self._call(raw, self._tool(raw, path), path)
        read = self._problems
        return Step(
            **common,
            uses=raw.get("uses") if isinstance(raw.get("uses"), str) else None,
            arguments=arguments,
            checked=checked,
            timeout_seconds=read.number(
                raw, "timeout_seconds", path=path, limit=MAX_TIMEOUT_SECONDS
            ),
            max_retries=read.integer(raw, "max_retries", path=path, bounds=RETRIES),
            backoff=self._backoff(raw, path),
            foreach=self._foreach(raw, path),
            max_parallel=self._max_parallel(raw, path),
            parallel=self._parallel(raw, path, depth),
            wait_for=self._wait_for(raw, path),
        )

    def _wait_for(self, raw: Mapping[str, Json], path: str) -> WaitFor | None:
        if raw.get("wait_for") is None:
            return None
        place = f"{path}.wait_for"
        with self._scope.inside(item=False):
            return self._problems.attempt(
                lambda: parse_wait(raw["wait_for"], place, scope=self._scope)
            )

    def _approval(self, raw: Mapping[str, Json], path: str) -> WaitFor | None:
        """Parse a step that uses ``approval.request``: another way to write ``wait_for``."""
        for key in raw:
            if key in STEP_KEYS and key not in _APPROVAL_KEYS:
                self._problems.add(f"{path}.{key}", f'"{APPROVAL_TOOL}" does not take it')
        given = {"approval": raw.get("with") or {}}
        return self._problems.attempt(lambda: parse_wait(given, f"{path}.with", scope=self._scope))

    def _check_combination(self, raw: Mapping[str, Json], path: str) -> None:
        has = {key for key in ("uses", "parallel", "wait_for") if raw.get(key) is not None}
        if not has:
            self._problems.add(path, 'a step needs "uses", "parallel" or "wait_for"')
        if {"uses", "parallel"} <= has:
            self._problems.add(path, 'a step has either "uses" or "parallel"')
        if "uses" not in has:
            for key in _TOOL_KEYS:
                if key in raw:
                    self._problems.add(f"{path}.{key}", f'"{key}" needs "uses"')
        if "max_parallel" in raw and not ({"foreach", "parallel"} & raw.keys()):
            self._problems.add(f"{path}.max_parallel", 'it needs "foreach" or "parallel"')

    def _condition(self, raw: Mapping[str, Json], path: str) -> Condition | None:
        if raw.get("if") is None:
            return None
        condition = self._problems.attempt(lambda: parse_condition(raw["if"], path=f"{path}.if"))
        if condition is not None and condition.expression is not None:
            self._scope.check(condition.expression, condition.path)
        return condition

    def _tool(self, raw: Mapping[str, Json], path: str) -> Tool | None:
        uses = raw.get("uses")
        if uses is None:
            return None
        if not isinstance(uses, str):
            self._problems.add(f"{path}.uses", "uses is the name of a tool")
            return None
        if self._registry is None:
            return None
        tool = self._registry.find(uses)
        if tool is None:
            message = f"unknown tool {uses[:128]!r}{hint(uses, self._registry.names())}"
            self._problems.add(f"{path}.uses", message, code="unknown_tool")
        return tool

    def _call(
        self, raw: Mapping[str, Json], tool: Tool | None, path: str
    ) -> tuple[Template | None, Tool | None]:
        """Return the arguments, and the tool when they are constant and valid."""
        arguments = self._arguments(raw, path)
        if arguments is None and raw.get("with") is not None:
            tool = None  # what is wrong with the arguments is said already
        return arguments, self._check_arguments(tool, arguments, path)

    def _arguments(self, raw: Mapping[str, Json], path: str) -> Template | None:
        value = raw.get("with")
        if "uses" not in raw or value is None:
            return None
        if not isinstance(value, dict | str):
            self._problems.add(f"{path}.with", f"with is an object, not {values.kind_of(value)}")
            return None
        template = self._template(value, f"{path}.with", secrets=True)
        if template is not None and isinstance(value, str) and not template.whole:
            self._problems.add(f"{path}.with", "with is an object, or one ${…} that yields one")
            return None
        return template

    def _check_arguments(
        self, tool: Tool | None, arguments: Template | None, path: str
    ) -> Tool | None:
        if tool is None or (arguments is not None and arguments.whole):
            return None
        outline, holes = ({}, ()) if arguments is None else arguments.outline()
        if tool.takes is not None:
            found = tool.takes.problems(outline, path=f"{path}.with", unknown=holes)
            self._problems.extend(found)
        return None if holes else tool

    def _template(self, value: Json, path: str, *, secrets: bool = False) -> Template | None:
        template = self._problems.attempt(lambda: parse_template(value, path=path))
        for slot in () if template is None else template.slots:
            self._scope.check(slot.expression, slot.path, secrets=secrets)
        return template

    def _foreach(self, raw: Mapping[str, Json], path: str) -> Foreach | None:
        value, path = raw.get("foreach"), f"{path}.foreach"
        if value is None:
            return None
        with self._scope.inside(item=False):
            items = self._items(value, path)
        return None if items is None else Foreach(items, path)

    def _items(self, value: Json, path: str) -> Expression | Template | None:
        if isinstance(value, list):
            return self._template(value, path)
        if not isinstance(value, str):
            kind = values.kind_of(value)
            self._problems.add(path, f"foreach is an array or an expression, not {kind}")
            return None
        expression = self._problems.attempt(lambda: parse_bare(value, path=path))
        if expression is not None:
            self._scope.check(expression, path)
        return expression

    def _parallel(self, raw: Mapping[str, Json], path: str, depth: int) -> tuple[Step, ...]:
        value, path = raw.get("parallel"), f"{path}.parallel"
        if value is None:
            return ()
        if not isinstance(value, list) or not value:
            self._problems.add(path, "parallel is a list of at least one step")
            return ()
        if depth >= MAX_GROUP_DEPTH:
            self._problems.add(path, f"steps are nested deeper than {MAX_GROUP_DEPTH} levels")
            return ()
        return tuple(self._side_by_side(value, path, depth + 1))

    def _side_by_side(self, raw: list[Json], path: str, depth: int) -> Iterator[Step]:
        """Parse the steps of a group: none sees the output of another."""
        for index, item in enumerate(raw):
            default = _group_default(path, index)
            step = self._step(item, f"{path}[{index}]", default, depth=depth)
            if step is not None:
                yield step

    def _on_error(self, raw: Mapping[str, Json], path: str, step_id: str, depth: int) -> OnError:
        value = raw.get("on_error", "fail")
        if value == "fail":
            return "fail"
        if value == "continue":
            return "continue"
        path = f"{path}.on_error"
        if not isinstance(value, dict):
            self._problems.add(path, 'on_error is "fail", "continue" or a step to run')
            return "fail"
        if depth >= MAX_GROUP_DEPTH:
            self._problems.add(path, f"steps are nested deeper than {MAX_GROUP_DEPTH} levels")
            return "fail"
        if "foreach" in raw:
            for key in ("foreach", "parallel", "wait_for"):
                if key in value:
                    message = f'a step that handles one item can not have "{key}"'
                    self._problems.add(f"{path}.{key}", message)
        with self._scope.inside(error=True):
            handler = self._step(value, path, f"{step_id}_on_error", depth=depth + 1)
        return "fail" if handler is None else handler

    def _backoff(self, raw: Mapping[str, Json], path: str) -> BackoffPolicy | None:
        value, path = raw.get("backoff"), f"{path}.backoff"
        if value is None:
            return None
        given = {"strategy": value} if isinstance(value, str) else value
        if not isinstance(given, dict):
            self._problems.add(path, 'backoff is a strategy or {"strategy": …, "seconds": …}')
            return None
        self._problems.unknown_keys(given, ("strategy", "seconds"), path=path)
        strategy = given.get("strategy")
        if strategy is not None and strategy not in get_args(Backoff):
            known = ", ".join(get_args(Backoff))
            self._problems.add(f"{path}.strategy", f"the strategy is one of {known}")
            return None
        return BackoffPolicy(
            strategy, self._problems.number(given, "seconds", path=path, limit=MAX_TIMEOUT_SECONDS)
        )

    def _max_parallel(self, raw: Mapping[str, Json], path: str) -> int:
        default = AT_ONCE[-1] if "parallel" in raw else 1
        found = self._problems.integer(raw, "max_parallel", path=path, bounds=AT_ONCE)
        return default if found is None else found


def _walk(raw: list[Json], path: str) -> Iterator[tuple[Mapping[str, Json], str, str]]:
    """Yield each step as it was sent, with its place and the id it gets by default."""
    pending: list[tuple[Json, str, str]] = [
        (item, f"{path}[{index}]", f"step_{index + 1}") for index, item in enumerate(raw)
    ]
    while pending:
        item, place, default = pending.pop()
        if not isinstance(item, dict):
            continue
        yield item, place, default
        group = item.get("parallel")
        if isinstance(group, list):
            inner = f"{place}.parallel"
            pending.extend(
                (child, f"{inner}[{i}]", _group_default(inner, i)) for i, child in enumerate(group)
            )
        if isinstance(item.get("on_error"), dict):
            own = item.get("id", default)
            pending.append((item["on_error"], f"{place}.on_error", f"{own}_on_error"))


def _group_default(path: str, index: int) -> str:
    """Return ``step_2_1`` for the first step of the group at ``pipeline[1].parallel``."""
    numbers = [int(number) + 1 for number in re.findall(r"\[(\d+)\]", path)]
    return "_".join(["step", *map(str, numbers), str(index + 1)])
