"""From a step to the output of its tool: secrets, arguments, validation, the call."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
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
    """Calls the tools of one run.

    The secrets that any of its steps names are kept out of what every tool says: what one step
    sends somewhere, a later one may fetch from there.
    """

    __slots__ = ("_clock", "_journal", "_named", "_registry", "_run", "_secrets")

    def __init__(
        self,
        run: RunInfo,
        registry: ToolRegistry,
        *,
        journal: Journal,
        clock: Clock,
        secrets: SecretSource,
        named: Collection[str],
    ) -> None:
        self._run = run
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self._secrets = secrets
        self._named = named

    async def invoke(self, attempt: Attempt, context: Context) -> Json:
        """Call the tool of a step once; raise :class:`StepError` for whatever goes wrong."""
        step = attempt.step
        tool = self._tool(step)
        redactor, found = NOTHING, None
        if self._named:
            found = await self._secrets(frozenset(self._named))
            redactor = Redactor(found.values())
        arguments = self._arguments(attempt, tool, context, found=found, redactor=redactor)
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

    def _arguments(
        self,
        attempt: Attempt,
        tool: Tool,
        context: Context,
        *,
        found: Mapping[str, str] | None,
        redactor: Redactor,
    ) -> dict[str, Json]:
        """Return the arguments of a call; what is wrong with them is said without secrets."""
        step = attempt.step
        arguments: dict[str, Json] = {}
        try:
            if step.arguments is not None:
                check_known(step.arguments, found or {})
                arguments = render_arguments(
                    step.arguments, context, now=attempt.started, secrets=found
                )
            if step.checked is not tool:
                validate(tool, arguments, path=f"{step.path}.with", masked=found is not None)
        except StepError as error:
            raise (error if found is None else calls.tidied(error, redactor)) from None
        return arguments

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
            loop=asyncio.get_running_loop(),
            redactor=redactor,
        )


def check_known(template: Template, found: Mapping[str, str]) -> None:
    """Raise :class:`TemplateError` that names a secret which does not exist."""
    if not template.secrets:
        return
    missing: list[Json] = sorted(template.secrets - found.keys())
    if missing:
        message = f'{template.path}: there is no secret "{missing[0]}"'
        raise TemplateError(message, path=template.path, details={"missing": missing})


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
