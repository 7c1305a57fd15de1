"""The execution of a run: its steps in order, each checkpointed before the next begins.

::

    resumed? ─► if ─► wait_for ─► render ─► validate ─► call ─► check ─► record
                 │        │          └────────┴─── StepError ─┴──► retry | on_error | Failed
              skipped  Suspended

Every step ends as a :class:`StepRecord`, or stops the run with :class:`Failed` or
:class:`Suspended`. Records are collected in ``_fresh`` and written down together: before the
next step starts, in batches within ``foreach`` and ``parallel``, and, for the last step, by the
caller together with the end of the run. What a process that dies loses is therefore at most the
calls in flight; a resumed run gets the records back as ``done`` and goes on after them.

A step that failed counts its own attempts, in its records; it is tried again by ending the
execution as :class:`Failed`. Nothing here ever sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

from ordinaut.clock import Clock
from ordinaut.engine import doubt, values, waiting
from ordinaut.engine.attempt import (
    Attempt,
    Context,
    Key,
    error_json,
    gave_up,
    is_over,
    latest,
    shown_error,
)
from ordinaut.engine.context import RunContext, remember
from ordinaut.engine.invocation import find_tool, invoke
from ordinaut.engine.lengths import format_instant
from ordinaut.engine.outcome import (
    Failed,
    Journal,
    Outcome,
    Run,
    SecretSource,
    Succeeded,
    Suspended,
)
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.retry import may_retry
from ordinaut.engine.sidebyside import run_side_by_side
from ordinaut.engine.steps import Foreach, Pipeline, Step
from ordinaut.engine.template import Template, search
from ordinaut.engine.tool import NotYet
from ordinaut.errors import EffectUnknown, StepError, TemplateError
from ordinaut.model import Json, StepRecord

MAX_ITEMS = 100_000
MAX_LIST = 8 * values.MAX_SIZE  # of the outputs of a foreach together
BATCH = 100  # records of a foreach that are written together

Ended: TypeAlias = StepRecord | Failed | Suspended

NOTHING: Mapping[str, Json] = MappingProxyType({})
_STOPS = (Failed, Suspended)  # as a tuple: isinstance() builds the union of types at each call


async def no_secrets(names: frozenset[str]) -> Mapping[str, str]:
    """Know no secret."""
    return {}


def execute(
    pipeline: Pipeline,
    *,
    run: Run,
    registry: ToolRegistry,
    journal: Journal,
    clock: Clock,
    at: datetime | None = None,
    done: Sequence[StepRecord] = (),
    secrets: SecretSource = no_secrets,
    given: Mapping[str, Json] = NOTHING,
) -> Coroutine[Any, Any, Outcome]:
    """Execute a run from its beginning, or go on after the records in ``done``.

    ``at`` is when it begins: now, unless it is given. ``done`` holds all step records of the run,
    failed ones too: they tell how often a step was tried. ``given`` is what the run was started
    with: ``params``, which win over those of the pipeline; ``events``, or one ``event`` alone;
    ``probe``, the result that let a condition task fire. What the journal raises, and the
    cancellation of the task, pass through; all else is an :class:`Outcome`.
    """
    prior = latest(done) if done else {}
    return _Execution(pipeline, run, registry, journal, clock, prior, secrets, given).run(at)


class _Execution:
    """One execution of one run."""

    __slots__ = (
        "_clock", "_context", "_fresh", "_given", "_journal", "_outputs", "_pipeline", "_prior",
        "_registry", "_run", "_secrets",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        run: Run,
        registry: ToolRegistry,
        journal: Journal,
        clock: Clock,
        prior: dict[Key, StepRecord],
        secrets: SecretSource,
        given: Mapping[str, Json],
    ) -> None:
        self._pipeline = pipeline
        self._run = run
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self._prior = prior
        self._secrets = secrets
        self._given = given
        self._outputs: dict[str, Json] = {}
        self._context: RunContext | None = None
        self._fresh: list[StepRecord] = []

    async def run(self, at: datetime | None) -> Outcome:
        for step in self._pipeline.steps:
            if self._fresh:
                await self._flush()
                at = None
            ended = await self._step(step, None, at=at)
            if not isinstance(ended, StepRecord):
                return replace(ended, steps=(*self._fresh, *ended.steps))
            self._remember(step, ended.output)
        return self._succeeded(self._pipeline.output)

    def _view(self, extra: Context | None = None) -> Context:
        """Return what expressions see; many runs have none."""
        if self._context is None:
            self._context = RunContext(self._run, self._pipeline, self._given, self._outputs)
        return self._context.view(extra)

    def _succeeded(self, output: Template | None) -> Outcome:
        records = tuple(self._fresh)
        if output is None:
            return Succeeded(None, records)
        try:
            return Succeeded(output.render(self._view(), now=self._clock.now()), records)
        except TemplateError as error:
            return Failed(error, records)

    async def _flush(self) -> None:
        records, self._fresh = self._fresh, []
        await self._journal.checkpoint(records)

    def _remember(self, step: Step, output: Json) -> None:
        """Let later steps see an output, and those of the members of a group.

        A group that ended in an earlier attempt, or was skipped, did not run its members now.
        """
        remember(self._outputs, step, output)
        for child in step.parallel:
            if child.id not in self._outputs:
                prior = self._prior.get((child.id, None))
                self._remember(child, None if prior is None else prior.output)

    def _note(self, record: StepRecord) -> StepRecord:
        self._fresh.append(record)
        return record

    async def _step(
        self,
        step: Step,
        extra: Context | None,
        index: int | None = None,
        *,
        at: datetime | None = None,
    ) -> Ended:
        """Run one step, or return what an earlier attempt recorded of it."""
        attempt = Attempt(step, extra, index, None, at or self._clock.now())
        prior = self._prior.get((step.id, index)) if self._prior else None
        if prior is not None:
            if is_over(prior) and not _is_answer(step, prior):
                return prior
            attempt.prior = prior
            if (wait := doubt.still_open(prior)) is not None:
                return Suspended((wait,), ())
            if (refused := doubt.denial(prior)) is not None:
                return await self._handle(attempt, refused)
            if gave_up(prior) and isinstance(step.on_error, Step):
                return await self._run_handler(attempt, prior)
            attempt.number = prior.attempt + (prior.status == "failed")
        try:
            ended = await self._try(attempt)
        except StepError as error:
            return await self._handle(attempt, error)
        if isinstance(ended, Failed) and self._is_for_group(step, ended):
            self._fresh.extend(ended.steps)
            return await self._handle(attempt, ended.error, final=True)
        if not isinstance(ended, StepRecord) or ended is prior:
            return ended
        return self._note(ended)

    async def _try(self, attempt: Attempt) -> Ended:
        step, index = attempt.step, attempt.index
        if step.condition is not None and not self._holds(attempt):
            return attempt.ended("skipped", self._clock.now())
        if step.wait_for is not None and index is None:
            waited = self._wait(attempt)
            if isinstance(waited, Suspended) or (step.uses is None and not step.parallel):
                return waited
        output: Any
        if step.parallel:
            output = await self._group(attempt)
        elif step.foreach is not None and index is None:
            output = await self._each(attempt, step.foreach)
        else:
            names = self._pipeline.secrets
            try:
                output = await invoke(
                    attempt,
                    self._view(attempt.extra) if step.needs_context else {},
                    run=self._run,
                    registry=self._registry,
                    journal=self._journal,
                    clock=self._clock,
                    secrets=await self._secrets(frozenset(names)) if names else None,
                )
            except NotYet as error:
                now = self._clock.now()
                return Suspended((waiting.for_run(step, index, error, now=now),), ())
        if isinstance(output, _STOPS):
            return output
        return attempt.ended("succeeded", self._clock.now(), output=output)

    def _holds(self, attempt: Attempt) -> bool:
        step = attempt.step
        assert step.condition is not None
        if step.foreach is not None and step.condition.asks_item is (attempt.index is None):
            return True
        if step.wait_for is not None and (step.wait_id, None) in self._prior:
            return True  # it held when the waiting began
        return step.condition.evaluate(self._view(attempt.extra), now=attempt.started)

    async def _handle(self, attempt: Attempt, error: StepError, *, final: bool = False) -> Ended:
        """Try again, go on as ``on_error`` says, or stop the run."""
        step = attempt.step
        error.path = error.path or step.path
        if isinstance(error, EffectUnknown):
            # What may have happened in the world is for a person to decide, not for on_error.
            return doubt.ask(attempt, error, now=self._clock.now())
        outcome = Failed(error, (), step.id, attempt.number, step.max_retries, step.backoff)
        final = final or self._is_final(outcome)
        handled = final and step.on_error != "fail"
        problem = error_json(error, final=final, handled=handled and step.on_error == "continue")
        record = attempt.failed(problem, self._clock.now())
        if not handled:
            return Failed(error, (record,), step.id, attempt.number, step.max_retries, step.backoff)
        if isinstance(step.on_error, Step):
            return await self._run_handler(attempt, record)
        return self._note(record._replace(output={"error": shown_error(record)}))

    def _is_final(self, failed: Failed) -> bool:
        limit = self._run.max_retries if failed.max_retries is None else failed.max_retries
        return not may_retry(failed.error, attempt=failed.attempt, max_retries=limit)

    def _is_for_group(self, step: Step, failed: Failed) -> bool:
        """Tell whether the failure of a member is handled by ``on_error`` of its group."""
        return bool(step.parallel) and step.on_error != "fail" and self._is_final(failed)

    async def _run_handler(self, attempt: Attempt, failure: StepRecord) -> Ended:
        """Run the step that handles a failure; its output stands for that of the failed one."""
        handler = attempt.step.on_error
        assert isinstance(handler, Step)
        extra = {**(attempt.extra or {}), "error": shown_error(failure)}
        ended = await self._step(handler, extra, attempt.index)
        if not isinstance(ended, StepRecord):
            # The failure is kept, so that a resumed run goes on with the handler.
            return replace(ended, steps=(failure, *ended.steps))
        assert isinstance(failure.error, dict)
        error = {**failure.error, "handled": True}
        return self._note(failure._replace(output=ended.output, error=error))

    def _wait(self, attempt: Attempt) -> StepRecord | Suspended:
        """Return the record of a waiting that is over, or what the run waits for."""
        step, now = attempt.step, attempt.started
        prior = self._prior.get((step.wait_id, None))
        if prior is not None and waiting.is_stale(prior, after=attempt.prior):
            prior = None
        if prior is not None and prior.status == "succeeded":
            return waiting.checked_answer(step, prior)
        if prior is not None and prior.status == "waiting":
            record, fresh = prior, False
            wait = waiting.asked_again(record)
        else:
            wait = waiting.ask(step, self._view(attempt.extra), now=now)
            record, fresh = waiting.question(wait, attempt=attempt.number, now=now), True
        if not waiting.is_due(wait, step, now=now):
            return Suspended((wait,), (record,) if fresh else ())
        answer = {"until": format_instant(now)}
        record = record._replace(status="succeeded", finished_at=now, output=answer)
        return record if step.wait_id == step.id else self._note(record)

    async def _each(self, attempt: Attempt, foreach: Foreach) -> list[Json] | Failed | Suspended:
        step, extra = attempt.step, attempt.extra or {}
        items = self._items(attempt, foreach)
        outputs: list[Json] = [None] * len(items)
        stopped: list[Failed | Suspended] = []
        size = values.Copier(MAX_LIST)

        def collect(index: int, ended: Ended) -> bool:
            if isinstance(ended, StepRecord):
                outputs[index] = size.copy(ended.output, values.MAX_DEPTH)
            else:
                stopped.append(ended)
            return not stopped

        jobs = (
            partial(self._step, step, {**extra, "item": item, "index": index}, index)
            for index, item in enumerate(items)
        )
        try:
            once = find_tool(step, self._registry).effect == "at_most_once"
            await self._side_by_side(jobs, step, collect=collect, batch=1 if once else BATCH)
        except values.NotJson as error:
            raise StepError(f"{step.path}: the outputs together: {error.message}") from None
        return self._combined(stopped) if stopped else outputs

    def _items(self, attempt: Attempt, foreach: Foreach) -> list[Json]:
        context, now = self._view(attempt.extra), attempt.started
        if isinstance(foreach.items, Template):
            found = foreach.items.render(context, now=now)
        else:
            found = search(foreach.items, context, path=foreach.path, now=now)
        problem = None
        if not isinstance(found, list):
            problem = f"it yields {values.kind_of(found)}, not an array"
        elif len(found) > MAX_ITEMS:
            problem = f"{len(found):,} items are more than {MAX_ITEMS:,}"
        if problem is not None:
            raise TemplateError(f"{foreach.path}: {problem}", path=foreach.path)
        return list(found)

    async def _group(self, attempt: Attempt) -> dict[str, Json] | Failed | Suspended:
        children = attempt.step.parallel
        outputs: dict[str, Json] = {child.save_as or child.id: None for child in children}
        stopped: list[Failed | Suspended] = []

        def collect(position: int, ended: Ended) -> bool:
            child = children[position]
            if isinstance(ended, StepRecord):
                outputs[child.save_as or child.id] = ended.output
                self._remember(child, ended.output)
            else:
                stopped.append(ended)
            return not isinstance(ended, Failed)

        jobs = (partial(self._step, child, attempt.extra) for child in children)
        await self._side_by_side(jobs, attempt.step, collect=collect, batch=1)
        return self._combined(stopped) if stopped else outputs

    def _combined(self, stopped: list[Failed | Suspended]) -> Failed | Suspended:
        """Return one outcome for several: a failure that is final first, any, then waiting."""
        failures = [s for s in stopped if isinstance(s, Failed)]
        records = tuple(record for s in stopped for record in s.steps)
        if failures:
            return replace(max(failures, key=self._is_final), steps=records)
        waits = tuple(wait for s in stopped if isinstance(s, Suspended) for wait in s.waits)
        return Suspended(waits, records)

    async def _side_by_side(
        self,
        jobs: Iterable[Callable[[], Any]],
        step: Step,
        *,
        collect: Callable[[int, Ended], bool],
        batch: int,
    ) -> None:
        await run_side_by_side(
            jobs,
            limit=step.max_parallel,
            collect=collect,
            flush=self._flush,
            waiting=lambda: len(self._fresh),
            batch=batch,
        )


def _is_answer(step: Step, record: StepRecord) -> bool:
    """Tell whether a record only says what was answered to a step that waits and does no more."""
    return step.wait_for is not None and step.wait_id == step.id and record.status == "succeeded"
