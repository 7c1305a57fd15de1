"""From a step to the output of its tool: secrets, arguments, validation, the call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

from ordinaut.clock import Clock
from ordinaut.engine import calls, values
from ordinaut.engine.attempt import Attempt, Context
from ordinaut.engine.nearest import hint
from ordinaut.engine.outcome import Journal, Run
from ordinaut.engine.redaction import NOTHING, Redactor
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.steps import Step
from ordinaut.engine.template import Template
from ordinaut.engine.tool import Tool, ToolContext
from ordinaut.errors import EffectUnknown, InvalidArguments, StepError, TemplateError
from ordinaut.model import Json


async def invoke(
    attempt: Attempt,
    context: Context,
    *,
    run: Run,
    registry: ToolRegistry,
    journal: Journal,
    clock: Clock,
    secrets: Mapping[str, str] | None = None,
) -> Json:
    """Call the tool of a step once; raise :class:`StepError` for whatever goes wrong.

    ``secrets`` are those that any step of the run names, not this one alone: they are kept out of
    what the tool says, because what one step sends somewhere, a later one may fetch from there.
    """
    step = attempt.step
    tool = find_tool(step, registry)
    redactor = NOTHING if secrets is None else Redactor(secrets.values())
    arguments = _arguments(attempt, tool, context, secrets=secrets, redactor=redactor)
    if tool.effect == "at_most_once":
        await _begin(attempt, journal)
    seen = None
    if tool.wants_context or tool.kind == "generator":
        seen = ToolContext(
            run_id=run.run_id,
            task_id=run.task_id,
            agent_id=run.agent_id,
            step_id=step.id,
            index=attempt.index,
            attempt=attempt.number,
            clock_now=clock.now,
            sink=journal.report,
            loop=asyncio.get_running_loop(),
            redactor=redactor,
        )
    return await calls.call(
        tool,
        arguments,
        seconds=step.timeout_seconds or tool.timeout_seconds,
        context=seen,
        redactor=redactor,
    )


def find_tool(step: Step, registry: ToolRegistry) -> Tool:
    """Return the tool that a step uses; raise :class:`StepError` when it is not here."""
    assert step.uses is not None
    tool = registry.find(step.uses)
    if tool is None:
        message = f'there is no tool "{step.uses}" on this worker'
        message += hint(step.uses, registry.names())
        # Retryable: during a deploy another worker may have it.
        raise StepError(message, retryable=True, path=f"{step.path}.uses")
    return tool


def _arguments(
    attempt: Attempt,
    tool: Tool,
    context: Context,
    *,
    secrets: Mapping[str, str] | None,
    redactor: Redactor,
) -> dict[str, Json]:
    """Return the arguments of a call; what is wrong with them is said without secrets."""
    step = attempt.step
    arguments: dict[str, Json] = {}
    try:
        if step.arguments is not None:
            if step.arguments.secrets:
                check_known(step.arguments, secrets or {})
            arguments = render_arguments(
                step.arguments, context, now=attempt.started, secrets=secrets
            )
        if step.checked is not tool:
            validate(tool, arguments, path=f"{step.path}.with", masked=secrets is not None)
    except StepError as error:
        raise (error if secrets is None else calls.tidied(error, redactor)) from None
    return arguments


async def _begin(attempt: Attempt, journal: Journal) -> None:
    """Make durable that a call is about to be made which must not be made twice."""
    if attempt.prior is not None and attempt.prior.status == "running":
        raise EffectUnknown(
            f'a worker ended while it called "{attempt.step.uses}", which must not be called '
            "twice: it may or may not have happened"
        )
    await journal.begin(attempt.running())


def check_known(template: Template, found: Mapping[str, str]) -> None:
    """Raise :class:`TemplateError` that names a secret which does not exist."""
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
