"""From a step to the output of its tool: secrets, arguments, validation, the call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

from ordinaut.clock import Clock
from ordinaut.engine import calls, values
from ordinaut.engine.attempt import Attempt, Context
from ordinaut.engine.nearest import hint
from ordinaut.engine.outcome import Journal, RunInfo, SecretSource
from ordinaut.engine.redaction import NOTHING, Redactor
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.steps import Step
from ordinaut.engine.template import Template
from ordinaut.engine.tool import Tool, ToolContext
from ordinaut.errors import EffectUnknown, InvalidArguments, StepError, TemplateError
from ordinaut.model import Json


class Invoker:
    """Calls the tools of one run."""

    __slots__ = ("_clock", "_journal", "_registry", "_run", "_secrets")

    def __init__(
        self,
        run: RunInfo,
        registry: ToolRegistry,
        *,
        journal: Journal,
        clock: Clock,
        secrets: SecretSource,
    ) -> None:
        self._run = run
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self._secrets = secrets

    async def invoke(self, attempt: Attempt, context: Context) -> Json:
        """Call the tool of a step once; raise :class:`StepError` for whatever goes wrong."""
        step = attempt.step
        tool = self._tool(step)
        redactor = NOTHING
        arguments: dict[str, Json] = {}
        if step.arguments is not None:
            found = await self._found(step.arguments) if step.arguments.secrets else None
            arguments = render_arguments(
                step.arguments, context, now=attempt.started, secrets=found
            )
            if found is not None:
                redactor = Redactor(found.values())
        if step.checked is not tool:
            validate(tool, arguments, path=f"{step.path}.with", masked=redactor is not NOTHING)
        if tool.effect == "at_most_once":
            await self._begin(attempt)
        wants = tool.wants_context or tool.kind == "generator"
        return await calls.call(
            tool,
            arguments,
            seconds=step.timeout_seconds or tool.timeout_seconds,
            context=self._tool_context(attempt, redactor) if wants else None,
            redactor=redactor,
        )

    def is_once(self, step: Step) -> bool:
        """Tell whether the tool of a step must not be called twice."""
        return self._tool(step).effect == "at_most_once"

    def _tool(self, step: Step) -> Tool:
        assert step.uses is not None
        tool = self._registry.find(step.uses)
        if tool is None:
            message = f'there is no tool "{step.uses}" on this worker'
            message += hint(step.uses, self._registry.names())
            # Retryable: during a deploy another worker may have it.
            raise StepError(message, retryable=True, path=f"{step.path}.uses")
        return tool

    async def _found(self, template: Template) -> Mapping[str, str]:
        found = await self._secrets(template.secrets)
        missing: list[Json] = sorted(template.secrets - found.keys())
        if missing:
            message = f'{template.path}: there is no secret "{missing[0]}"'
            raise TemplateError(message, path=template.path, details={"missing": missing})
        return found

    async def _begin(self, attempt: Attempt) -> None:
        if attempt.prior is not None and attempt.prior.status == "running":
            raise EffectUnknown(
                f'a worker ended while it called "{attempt.step.uses}", which must not be called '
                "twice: it may or may not have happened"
            )
        await self._journal.begin(attempt.running())

    def _tool_context(self, attempt: Attempt, redactor: Redactor) -> ToolContext:
        return ToolContext(
            run_id=self._run.run_id,
            task_id=self._run.task_id,
            agent_id=self._run.agent_id,
            step_id=attempt.step.id,
            index=attempt.index,
            attempt=attempt.number,
            clock_now=self._clock.now,
            sink=self._journal.report,
            redact=redactor.text,
            loop=asyncio.get_running_loop(),
        )


def render_arguments(
    template: Template,
    context: Context,
    *,
    now: datetime,
    secrets: Mapping[str, str] | None = None,
) -> dict[str, Json]:
    """Return the arguments of a call, not validated yet."""
    rendered = template.render(context, now=now, secrets=secrets)
    if type(rendered) is not dict:
        message = f"{template.path}: it yields {values.kind_of(rendered)}, not an object"
        raise InvalidArguments(message, path=template.path)
    return rendered


def validate(tool: Tool, arguments: dict[str, Json], *, path: str, masked: bool = False) -> None:
    """Raise :class:`InvalidArguments` where the tool does not take the arguments."""
    if tool.takes is None or tool.takes.accepts(arguments):
        return
    problems = tool.takes.problems(arguments, path=path, masked=masked)
    text = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
    listed: list[Json] = [{"path": p.path, "message": p.message, "code": p.code} for p in problems]
    raise InvalidArguments(
        f'tool "{tool.name}" does not take these arguments: {text}',
        path=problems[0].path if problems else path,
        details={"problems": listed},
    )
