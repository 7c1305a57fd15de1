"""A dry run: each step as it would be called, and only ``pure`` tools really called.

The output of a tool that is not called is unknown. What is rendered from it stays as it is
written, and the steps it comes from are named; ``probe`` stands for the probe of a condition
task. Secrets appear as placeholders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from ordinaut.clock import Clock
from ordinaut.engine import probe as probes
from ordinaut.engine import waiting
from ordinaut.engine.attempt import Attempt, Context, error_json
from ordinaut.engine.context import RunContext, remember
from ordinaut.engine.expression import Expression
from ordinaut.engine.invocation import invoke, validate
from ordinaut.engine.outcome import Run, Unwritten
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.steps import Foreach, Pipeline, Probe, Step
from ordinaut.engine.template import Template, parse_template, search
from ordinaut.errors import InvalidArguments, StepError
from ordinaut.model import Json

MAX_ITEMS_SHOWN = 10
MASK = "***"  # stands for the value of any secret

Status: TypeAlias = Literal["would_call", "called", "skipped", "would_wait", "unknown", "failed"]


@dataclass(slots=True)
class Rehearsed:
    """What a step would do.

    ``unknown`` names the steps whose outputs are not known without calling their tools;
    ``steps`` are the members of a group, the items of a ``foreach``, or the step that handles a
    failure; ``handled`` tells that the output after a failure is known.
    """

    id: str
    path: str
    status: Status
    uses: str | None = None
    arguments: Json = None
    output: Json = None
    error: Json = None
    wait: Json = None
    index: int | None = None
    unknown: tuple[str, ...] = ()
    steps: list[Rehearsed] = field(default_factory=list)
    items: int | None = None
    handled: bool = False

    def to_json(self) -> dict[str, Json]:
        """Return what ``POST /tasks/{id}/dry_run`` shows of it."""
        shown: dict[str, Json] = {"id": self.id, "path": self.path, "status": self.status}
        optional: dict[str, Json] = {
            "uses": self.uses,
            "with": self.arguments,
            "error": self.error,
            "wait": self.wait,
            "index": self.index,
            "unknown": list(self.unknown) or None,
            "items": self.items,
            "steps": [step.to_json() for step in self.steps] or None,
        }
        shown |= {key: value for key, value in optional.items() if value is not None}
        return shown | ({"output": self.output} if self.status == "called" or self.handled else {})


@dataclass(frozen=True, slots=True)
class DryRun:
    """All steps, and the output of the run as far as it is known."""

    steps: tuple[Rehearsed, ...]
    output: Json
    unknown: tuple[str, ...]
    error: Json = None
    probe: Json = None

    def to_json(self) -> dict[str, Json]:
        """Return what ``POST /tasks/{id}/dry_run`` answers."""
        return {
            "steps": [step.to_json() for step in self.steps],
            "output": self.output,
            "unknown": list(self.unknown),
            "error": self.error,
            "probe": self.probe,
        }


async def render_steps(
    pipeline: Pipeline,
    *,
    run: Run,
    registry: ToolRegistry,
    clock: Clock,
    event: Json = None,
    probe: Json = None,
    condition: str | None = None,
    params: Mapping[str, Json] | None = None,
) -> DryRun:
    """Show what a run would do; nothing but pure tools is called, nothing is written down.

    ``condition`` is evaluated over the result of the probe: ``probe`` if it is given, else what
    the tool says if it is pure.
    """
    context = RunContext(run, pipeline, {"params": params, "event": event})
    secrets = dict.fromkeys(pipeline.secrets, MASK) if pipeline.secrets else None
    rehearsal = _Rehearsal(run, registry, clock=clock, context=context, secrets=secrets)
    shown = None
    if pipeline.probe is not None and condition is not None:
        shown = await rehearsal.poll(pipeline.probe, condition, given=probe)
    return replace(await rehearsal.perform(pipeline), probe=shown)


class _Rehearsal:
    def __init__(
        self,
        run: Run,
        registry: ToolRegistry,
        *,
        clock: Clock,
        context: RunContext,
        secrets: Mapping[str, str] | None,
    ) -> None:
        self._run = run
        self._registry = registry
        self._clock = clock
        self._context = context
        self._unknown: set[str] = set()
        self._probe_unknown = False
        self._secrets = secrets

    async def poll(self, probe: Probe, condition: str, *, given: Json) -> Json:
        """Show the call of a probe, and whether the condition holds as far as that is known."""
        call = probe.call
        shown = Rehearsed(call.id, call.path, "unknown", uses=call.uses)
        self._context.see(given)
        try:
            await self._rehearse(call, shown, None)
            result = shown.output if given is None else given
            self._probe_unknown = given is None and shown.status != "called"
            self._context.see(result)
            if self._probe_unknown:
                return shown.to_json()
            held = probes.holds(condition, result, now=self._clock.now())
            return {**shown.to_json(), "holds": held}
        except StepError as error:
            self._probe_unknown = given is None and shown.status != "called"
            shown.status = "failed"
            shown.error = error_json(error, final=False, handled=False)
            return shown.to_json()

    async def perform(self, pipeline: Pipeline) -> DryRun:
        rehearsed = tuple([await self._step(step, None) for step in pipeline.steps])
        if pipeline.output is None:
            return DryRun(rehearsed, None, ())
        unknown = self._unknown_in(slot.expression for slot in pipeline.output.slots)
        try:
            output = self._partly(pipeline.output.source, pipeline.output.path, {})
        except StepError as error:
            return DryRun(rehearsed, None, unknown, error_json(error, final=False, handled=False))
        return DryRun(rehearsed, output, unknown)

    async def _step(self, step: Step, extra: Context | None, index: int | None = None) -> Rehearsed:
        shown = Rehearsed(step.id, step.path, "unknown", uses=step.uses, index=index)
        try:
            await self._rehearse(step, shown, extra)
        except StepError as error:
            error.path = error.path or step.path
            shown.status = "failed"
            shown.error = error_json(error, final=False, handled=False)
            await self._handle(step, shown, extra)
        if index is None:
            self._conclude(step, shown)
        return shown

    async def _handle(self, step: Step, shown: Rehearsed, extra: Context | None) -> None:
        """Show what happens after a failure; its output stands for that of the step."""
        assert isinstance(shown.error, dict)
        seen = {key: shown.error.get(key) for key in ("code", "message", "path", "details")}
        if isinstance(step.on_error, Step):
            inner = {**(extra or {}), "error": seen}
            handler = await self._step(step.on_error, inner, shown.index)
            shown.steps.append(handler)
            shown.handled, shown.output = handler.status in ("called", "skipped"), handler.output
        elif step.on_error == "continue":
            shown.handled, shown.output = True, {"error": seen}

    def _conclude(self, step: Step, shown: Rehearsed) -> None:
        if shown.status in ("called", "skipped") or shown.handled:
            remember(self._context.steps, step, shown.output)
            for child in step.parallel if shown.status == "skipped" else ():
                self._conclude(child, Rehearsed(child.id, child.path, "skipped"))
        else:
            self._unknown |= {name for name in (step.id, step.save_as) if name}

    async def _rehearse(self, step: Step, shown: Rehearsed, extra: Context | None) -> None:
        now = self._clock.now()
        if step.condition is not None and (step.foreach is None or shown.index is not None):
            expression = step.condition.expression
            shown.unknown = self._unknown_in([expression] if expression else [])
            if not shown.unknown and not step.condition.evaluate(
                self._context.view(extra), now=now
            ):
                shown.status = "skipped"
                return
        if step.wait_for is not None:
            shown.wait = waiting.ask(step, self._context.view(extra), now=now).to_json()
            shown.status = "would_wait"
        if step.parallel:
            await self._group(step, shown, extra)
        elif step.foreach is not None and shown.index is None:
            await self._each(step, step.foreach, shown, extra)
        elif step.uses is not None:
            await self._call(step, shown, extra)

    async def _call(self, step: Step, shown: Rehearsed, extra: Context | None) -> None:
        assert step.uses is not None
        source = {} if step.arguments is None else step.arguments.source
        path = step.path if step.arguments is None else step.arguments.path
        slots = () if step.arguments is None else step.arguments.slots
        shown.arguments = self._partly(source, path, extra or {})
        found = self._unknown_in(slot.expression for slot in slots)
        shown.unknown = tuple(sorted({*shown.unknown, *found}))
        tool = self._registry.get(step.uses)
        if not found and not isinstance(shown.arguments, dict):
            raise InvalidArguments(f"{path}: it yields no object", path=path)
        if not found:
            validate(tool, shown.arguments, path=f"{step.path}.with")
        if shown.unknown or tool.effect != "pure" or step.wait_for is not None:
            shown.status = "unknown" if shown.unknown else "would_call"
            return
        attempt = Attempt(step, extra, shown.index, None, self._clock.now())
        shown.output = await invoke(
            attempt,
            self._context.view(extra),
            run=self._run,
            registry=self._registry,
            journal=Unwritten(),
            clock=self._clock,
            secrets=self._secrets,
        )
        shown.status = "called"

    async def _group(self, step: Step, shown: Rehearsed, extra: Context | None) -> None:
        shown.steps = [await self._step(child, extra) for child in step.parallel]
        if all(child.status in ("called", "skipped") for child in shown.steps):
            pairs = zip(step.parallel, shown.steps, strict=True)
            shown.output = {child.save_as or child.id: done.output for child, done in pairs}
            shown.status = "called"

    async def _each(
        self, step: Step, foreach: Foreach, shown: Rehearsed, extra: Context | None
    ) -> None:
        items = self._items(foreach, shown, extra)
        if items is None:
            return
        shown.items = len(items)
        for index, item in enumerate(items[:MAX_ITEMS_SHOWN]):
            inner = {**(extra or {}), "item": item, "index": index}
            shown.steps.append(await self._step(step, inner, index))
        complete = len(items) <= MAX_ITEMS_SHOWN
        if complete and all(one.status in ("called", "skipped") for one in shown.steps):
            shown.output = [one.output for one in shown.steps]
            shown.status = "called"
        else:
            shown.status = "would_call"

    def _items(
        self, foreach: Foreach, shown: Rehearsed, extra: Context | None
    ) -> list[Json] | None:
        source, now = foreach.items, self._clock.now()
        if isinstance(source, Template):
            shown.unknown = self._unknown_in(slot.expression for slot in source.slots)
            if shown.unknown:
                return None
            found = source.render(self._context.view(extra), now=now)
        else:
            shown.unknown = self._unknown_in([source])
            if shown.unknown:
                return None
            found = search(source, self._context.view(extra), path=foreach.path, now=now)
        if not isinstance(found, list):
            raise StepError(f"{foreach.path}: it yields no array", path=foreach.path)
        return list(found)

    def _unknown_in(self, expressions: Iterable[Expression]) -> tuple[str, ...]:
        """Return the steps whose outputs an expression needs and nobody knows."""
        needed: set[str] = set()
        asks_probe = False
        for expression in expressions:
            for reference in expression.references:
                asks_probe = asks_probe or reference.root == "probe"
                if reference.root == "steps":
                    needed |= {reference.member} if reference.member else self._unknown
        found = needed & self._unknown
        if self._probe_unknown and asks_probe:
            found.add("probe")
        return tuple(sorted(found))

    def _partly(self, value: Json, path: str, extra: Context) -> Json:
        """Render what can be rendered; the rest stays as it is written."""
        if isinstance(value, list):
            return [self._partly(item, f"{path}[{i}]", extra) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self._partly(item, f"{path}.{key}", extra) for key, item in value.items()}
        template = parse_template(value, path=path)
        if self._unknown_in(slot.expression for slot in template.slots):
            return value
        secrets = dict.fromkeys(template.secrets, MASK)
        return template.render(self._context.view(extra), now=self._clock.now(), secrets=secrets)
