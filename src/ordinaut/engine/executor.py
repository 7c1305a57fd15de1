"""The execution of a run: its steps in order, each checkpointed before the next begins.

::

    resumed? ─► if ─► wait_for ─► render ─► validate ─► call ─► check ─► record
                 │        │          └────────┴─── StepError ─┴──► retry | on_error | Failed
              skipped  Suspended

Every step ends as a :class:`StepRecord`, or stops the run with :class:`Failed` or
:class:`Suspended`. Records are collected in ``_fresh`` and written down together: before the
next step starts, in batches within ``foreach`` and ``parallel``, and, for the last step, by the
caller together with the end of the run. What a process that dies loses is therefore at most the
call in flight; a resumed run gets the records back as ``done`` and goes on after them.

A step that failed counts its own attempts, in its records; it is tried again by ending the
execution as :class:`Failed`. Nothing here ever sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

from ordinaut.clock import Clock
from ordinaut.engine import calls, values, waiting
from ordinaut.engine.duration import format_instant
from ordinaut.engine.expression import Expression
from ordinaut.engine.interpreter import EvaluationError
from ordinaut.engine.nearest import hint
from ordinaut.engine.outcome import (
    Failed,
    Journal,
    Outcome,
    RunInfo,
    SecretSource,
    Succeeded,
    Suspended,
)
from ordinaut.engine.redaction import NOTHING, Redactor
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.retry import may_retry
from ordinaut.engine.sidebyside import run_side_by_side
from ordinaut.engine.steps import Pipeline, Step
from ordinaut.engine.template import Template, failed
from ordinaut.engine.tool import Tool, ToolContext
from ordinaut.errors import EffectUnknown, InvalidArguments, StepError, TemplateError, WaitRefused
from ordinaut.model import Json, StepRecord, StepStatus

MAX_ITEMS = 100_000
MAX_LIST = 8 * values.MAX_SIZE  # of the outputs of a foreach together
BATCH = 100  # records of a foreach that are written together

Context: TypeAlias = Mapping[str, Json]
Ended: TypeAlias = StepRecord | Failed | Suspended
Key: TypeAlias = tuple[str, int | None]


async def no_secrets(names: frozenset[str]) -> Mapping[str, str]:
    """Know no secret."""
    return {}


async def execute(
    pipeline: Pipeline,
    *,
    run: RunInfo,
    registry: ToolRegistry,
    journal: Journal,
    clock: Clock,
    done: Sequence[StepRecord] = (),
    secrets: SecretSource = no_secrets,
    event: Json = None,
    params: Mapping[str, Json] | None = None,
) -> Outcome:
    """Execute a run from its beginning, or go on after the records in ``done``.

    ``done`` holds all step records of the run, failed ones too: they tell how often a step was
    tried. ``params`` are those of the run and win over those of the pipeline. Raises
    :class:`LeaseLost` when the journal does, and lets the cancellation of its task through;
    everything else is an :class:`Outcome`.
    """
    execution = _Execution(
        run, registry, journal, clock, _last_records(done), secrets, event,
        {**pipeline.params, **params} if params else pipeline.params,
    )  # fmt: skip
    return await execution.run(pipeline)


def _last_records(done: Sequence[StepRecord]) -> dict[Key, StepRecord]:
    """Return the latest record of each step, which is the one of its latest attempt."""
    last: dict[Key, StepRecord] = {}
    for record in done:
        key = (record.step_id, record.index)
        if key not in last or record.attempt >= last[key].attempt:
            last[key] = record
    return last


class _Execution:
    """One execution of one run."""

    __slots__ = (
        "_base",
        "_clock",
        "_event",
        "_fresh",
        "_journal",
        "_params",
        "_prior",
        "_registry",
        "_run",
        "_secrets",
        "_steps",
    )

    def __init__(
        self,
        run: RunInfo,
        registry: ToolRegistry,
        journal: Journal,
        clock: Clock,
        prior: dict[Key, StepRecord],
        secrets: SecretSource,
        event: Json,
        params: Mapping[str, Json],
    ) -> None:
        self._run = run
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self._prior = prior
        self._secrets = secrets
        self._event = event
        self._params = params
        self._steps: dict[str, Json] = {}
        self._fresh: list[StepRecord] = []
        self._base: dict[str, Json] | None = None

    async def run(self, pipeline: Pipeline) -> Outcome:
        for step in pipeline.steps:
            if self._fresh:
                await self._flush()
            ended = await self._step(step, None, None)
            if not isinstance(ended, StepRecord):
                return replace(ended, steps=(*self._fresh, *ended.steps))
            self._remember(step, ended)
        if pipeline.output is None:
            return Succeeded(None, tuple(self._fresh))
        try:
            output = pipeline.output.render(self._context(None), now=self._clock.now())
        except TemplateError as error:
            return Failed(error, tuple(self._fresh))
        return Succeeded(output, tuple(self._fresh))

    async def _flush(self) -> None:
        records, self._fresh = self._fresh, []
        await self._journal.checkpoint(records)

    def _context(self, extra: Context | None) -> Context:
        """Return what expressions see; built only when one is evaluated."""
        if self._base is None:
            run = self._run
            at = run.scheduled_for
            self._base = {
                "params": self._params,
                "steps": self._steps,
                "event": self._event,
                "task": {"id": str(run.task_id), **run.task},
                "run": {
                    "id": str(run.run_id),
                    "attempt": run.attempt,
                    "trigger": run.trigger,
                    "scheduled_for": None if at is None else format_instant(at),
                },
            }
        return self._base if extra is None else {**self._base, **extra}

    def _remember(self, step: Step, record: StepRecord) -> None:
        self._steps[step.id] = record.output
        if step.save_as is not None:
            self._steps[step.save_as] = record.output

    def _note(self, record: StepRecord) -> StepRecord:
        self._fresh.append(record)
        return record

    async def _step(self, step: Step, extra: Context | None, index: int | None) -> Ended:
        """Run one step, or return what an earlier attempt recorded of it."""
        prior = self._prior.get((step.id, index)) if self._prior else None
        if prior is not None and _is_over(prior) and not _is_answer(step, prior):
            return prior
        attempt = 1 if prior is None or prior.status != "failed" else prior.attempt + 1
        started = self._clock.now()
        try:
            if step.condition is not None and not self._holds(step, extra, index, started):
                return self._note(self._record(step, "skipped", attempt, started, index))
            if step.wait_for is not None and index is None:
                waited = self._wait(step, extra, started)
                if not isinstance(waited, StepRecord):
                    return waited
                if step.uses is None and not step.parallel:
                    return waited
            output = await self._output(step, extra, index, attempt)
        except StepError as error:
            return await self._handle(step, error, extra, index, attempt, started)
        if isinstance(output, Failed | Suspended):
            return output
        return self._note(
            StepRecord(
                step.id, "succeeded", attempt, started, self._clock.now(), step.uses or "",
                index, output,
            )
        )  # fmt: skip

    async def _output(
        self, step: Step, extra: Context | None, index: int | None, attempt: int
    ) -> Json | Failed | Suspended:
        if step.parallel:
            return await self._group(step, extra)
        if step.foreach is not None and index is None:
            return await self._each(step, extra)
        return await self._call(step, extra, index, attempt)

    def _record(
        self,
        step: Step,
        status: StepStatus,
        attempt: int,
        started: datetime,
        index: int | None,
        output: Json = None,
        error: Json = None,
    ) -> StepRecord:
        return StepRecord(
            step.id, status, attempt, started, self._clock.now(), step.uses or "", index,
            output, error,
        )  # fmt: skip

    def _holds(self, step: Step, extra: Context | None, index: int | None, now: datetime) -> bool:
        assert step.condition is not None
        if step.foreach is not None and step.condition_per_item is (index is None):
            return True
        if step.wait_for is not None and (step.wait_id, None) in self._prior:
            return True  # it held when the waiting began
        return step.condition.evaluate(self._context(extra), now=now)

    # Failing

    async def _handle(
        self,
        step: Step,
        error: StepError,
        extra: Context | None,
        index: int | None,
        attempt: int,
        started: datetime,
    ) -> Ended:
        """Try again, go on as ``on_error`` says, or stop the run."""
        error.path = error.path or step.path
        limit = self._run.max_retries if step.max_retries is None else step.max_retries
        final = not may_retry(error, attempt=attempt, max_retries=limit)
        # What may have happened in the world is for a person to decide, not for on_error.
        handled = final and step.on_error != "fail" and not isinstance(error, EffectUnknown)
        problem = _error_json(error, handled=handled)
        output: Json = None
        if handled:
            shown = {"code": error.code, "message": error.message, "path": error.path}
            output = {"error": shown}
            if isinstance(step.on_error, Step):
                ended = await self._step(step.on_error, {**(extra or {}), **output}, index)
                if not isinstance(ended, StepRecord):
                    return ended
                self._remember(step.on_error, ended)
                output = ended.output
        record = self._record(step, "failed", attempt, started, index, output, problem)
        if handled:
            return self._note(record)
        return Failed(error, (record,), step.id, attempt, step.max_retries, step.backoff)

    # Waiting

    def _wait(self, step: Step, extra: Context | None, now: datetime) -> StepRecord | Suspended:
        """Return the record of a waiting that is over, or what the run waits for."""
        prior = self._prior.get((step.wait_id, None))
        if prior is not None and prior.status == "succeeded":
            return _answered(step, prior)
        if prior is None or prior.status != "waiting":
            wait = waiting.ask(step, self._context(extra), now=now)
            record = StepRecord(
                step.wait_id, "waiting", 1, now, None, "", None, {"wait": wait.to_json()}
            )
        else:
            record = prior
            wait = waiting.asked_again(prior)
        if wait.until is None or wait.until > now:
            return Suspended((wait,), () if record is prior else (record,))
        if wait.kind != "until":
            raise WaitRefused(
                f"{step.path}: the {wait.kind} did not come before {format_instant(wait.until)}"
            )
        answer = {"until": format_instant(wait.until)}
        return self._note(replace(record, status="succeeded", finished_at=now, output=answer))

    # Calling

    async def _call(
        self, step: Step, extra: Context | None, index: int | None, attempt: int
    ) -> Json:
        assert step.uses is not None
        tool = self._registry.find(step.uses)
        if tool is None:
            # Retryable: during a deploy another worker may have it.
            message = f'no tool "{step.uses}" on this worker'
            message += hint(step.uses, self._registry.names())
            raise StepError(message, retryable=True, path=f"{step.path}.uses")
        redactor = NOTHING
        if step.arguments is None:
            arguments: dict[str, Json] = {}
        elif step.arguments.secrets:
            found = await self._found_secrets(step.arguments)
            arguments = self._render(step.arguments, extra, found)
            redactor = Redactor(found.values())
        else:
            arguments = self._render(step.arguments, extra, None)
        if step.checked is not tool:
            _validate(tool, arguments, step, masked=redactor is not NOTHING)
        if tool.effect == "at_most_once":
            await self._begin(step, index, attempt)
        timeout = step.timeout_seconds or tool.timeout_seconds
        context = None
        if tool.wants_context or tool.kind == "generator":
            context = self._tool_context(step, index, attempt, redactor)
        return await calls.call(
            tool, arguments, seconds=timeout, context=context, redactor=redactor
        )

    def _render(
        self, template: Template, extra: Context | None, secrets: Mapping[str, str] | None
    ) -> dict[str, Json]:
        context = {} if template.constant else self._context(extra)
        rendered = template.render(context, now=self._clock.now(), secrets=secrets)
        if type(rendered) is not dict:
            message = f"{template.path}: it yields {values.kind_of(rendered)}, not an object"
            raise InvalidArguments(message, path=template.path)
        return rendered

    async def _found_secrets(self, template: Template) -> Mapping[str, str]:
        found = await self._secrets(template.secrets)
        missing = sorted(template.secrets - found.keys())
        if missing:
            message = f'{template.path}: there is no secret "{missing[0]}"'
            raise TemplateError(message, path=template.path, details={"missing": missing})
        return found

    async def _begin(self, step: Step, index: int | None, attempt: int) -> None:
        prior = self._prior.get((step.id, index))
        if prior is not None and prior.status == "running":
            raise EffectUnknown(
                f'a worker ended while it called "{step.uses}", which must not be called twice: '
                "it may or may not have happened"
            )
        now = self._clock.now()
        record = StepRecord(step.id, "running", attempt, now, None, step.uses or "", index)
        await self._journal.begin(record)

    def _tool_context(
        self, step: Step, index: int | None, attempt: int, redactor: Redactor
    ) -> ToolContext:
        return ToolContext(
            run_id=self._run.run_id,
            task_id=self._run.task_id,
            agent_id=self._run.agent_id,
            step_id=step.id,
            index=index,
            attempt=attempt,
            clock_now=self._clock.now,
            sink=self._journal.report,
            redact=redactor.text,
            loop=asyncio.get_running_loop(),
        )

    # Several at once

    async def _each(self, step: Step, extra: Context | None) -> Json | Failed | Suspended:
        items = self._items(step, extra)
        outputs: list[Json] = [None] * len(items)
        size = values.Copier(MAX_LIST)
        stopped: list[Failed | Suspended] = []

        def collect(index: int, ended: Ended) -> bool:
            if not isinstance(ended, StepRecord):
                stopped.append(ended)
                return False
            size.copy(ended.output, values.MAX_DEPTH)
            outputs[index] = ended.output
            return True

        jobs = (
            partial(self._step, step, {**(extra or {}), "item": item, "index": index}, index)
            for index, item in enumerate(items)
        )
        try:
            await self._side_by_side(jobs, step, collect)
        except values.NotJson as error:
            raise StepError(f"{step.path}: the outputs together: {error.message}") from None
        return _combined(stopped) if stopped else outputs

    def _items(self, step: Step, extra: Context | None) -> list[Json]:
        assert step.foreach is not None
        source, path = step.foreach.items, step.foreach.path
        now = self._clock.now()
        if isinstance(source, Template):
            found = source.render(self._context(extra), now=now)
        else:
            found = _search(source, self._context(extra), path, now)
        if not isinstance(found, list):
            message = f"{path}: it yields {values.kind_of(found)}, not an array"
            raise TemplateError(message, path=path)
        if len(found) > MAX_ITEMS:
            message = f"{path}: {len(found):,} items are more than {MAX_ITEMS:,}"
            raise TemplateError(message, path=path)
        return found

    async def _group(self, step: Step, extra: Context | None) -> Json | Failed | Suspended:
        children = step.parallel
        outputs: dict[str, Json] = {child.save_as or child.id: None for child in children}
        stopped: list[Failed | Suspended] = []

        def collect(position: int, ended: Ended) -> bool:
            child = children[position]
            if not isinstance(ended, StepRecord):
                stopped.append(ended)
                return not isinstance(ended, Failed)
            outputs[child.save_as or child.id] = ended.output
            self._remember(child, ended)
            return True

        jobs = (partial(self._step, child, extra, None) for child in children)
        await self._side_by_side(jobs, step, collect)
        return _combined(stopped) if stopped else outputs

    async def _side_by_side(self, jobs: Any, step: Step, collect: Callable[..., bool]) -> None:
        await run_side_by_side(
            jobs,
            limit=step.max_parallel,
            collect=collect,
            flush=self._flush,
            waiting=lambda: len(self._fresh),
            batch=BATCH,
        )


def _is_over(record: StepRecord) -> bool:
    """Tell whether a step is not run again: it ended, or its failure was handled."""
    if record.status == "failed":
        return isinstance(record.error, dict) and record.error.get("handled") is True
    return record.status in ("succeeded", "skipped")


def _is_answer(step: Step, record: StepRecord) -> bool:
    """Tell whether a record only says what was answered to a step that waits and does no more."""
    return step.wait_for is not None and step.wait_id == step.id and record.status == "succeeded"


def _error_json(error: StepError, *, handled: bool) -> dict[str, Json]:
    found: dict[str, Json] = {
        "code": error.code,
        "message": error.message,
        "path": error.path,
        "retryable": error.retryable,
    }
    if error.details:
        found["details"] = error.details
    if handled:
        found["handled"] = True
    return found


def _answered(step: Step, record: StepRecord) -> StepRecord:
    answer = record.output
    assert step.wait_for is not None
    if step.wait_for.kind == "approval" and isinstance(answer, dict) and not answer.get("approved"):
        by, note = answer.get("by"), answer.get("note")
        message = f"{step.path}: it was rejected"
        message += f" by {by}" if by else ""
        message += f": {note}" if note else ""
        raise WaitRefused(message)
    return record


def _validate(tool: Tool, arguments: dict[str, Json], step: Step, *, masked: bool) -> None:
    if tool.takes is None or tool.takes.accepts(arguments):
        return
    problems = tool.takes.problems(arguments, path=f"{step.path}.with", masked=masked)
    text = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
    listed: list[Json] = [{"path": p.path, "message": p.message, "code": p.code} for p in problems]
    path = problems[0].path if problems else f"{step.path}.with"
    raise InvalidArguments(
        f'tool "{tool.name}" does not take these arguments: {text}',
        path=path,
        details={"problems": listed},
    )


def _search(expression: Expression, context: Context, path: str, now: datetime) -> Json:
    try:
        return expression.search(context, now=now, strict=True)
    except EvaluationError as error:
        raise failed(path, error.message, expression, error.position) from None


def _combined(stopped: list[Failed | Suspended]) -> Failed | Suspended:
    """Return one outcome for several: a failure that is final first, then any, then waiting."""
    failures = [s for s in stopped if isinstance(s, Failed)]
    records = tuple(record for s in stopped for record in s.steps)
    if failures:
        return replace(min(failures, key=lambda f: f.error.retryable), steps=records)
    waits = tuple(wait for s in stopped if isinstance(s, Suspended) for wait in s.waits)
    return Suspended(waits, records)
