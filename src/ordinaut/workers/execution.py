"""One run, from a job to what the store is told about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from ordinaut.clock import Clock
from ordinaut.engine.attempt import error_json
from ordinaut.engine.calls import describe
from ordinaut.engine.executor import NOTHING, execute, no_secrets
from ordinaut.engine.outcome import Failed, Outcome, Succeeded
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.retry import Fail, RetryAt, Suspend, decide
from ordinaut.engine.tool import LogEntry, Report
from ordinaut.errors import StepError
from ordinaut.model import Json, StepRecord, Trigger
from ordinaut.store import results
from ordinaut.store.results import Ended, Parked
from ordinaut.telemetry import emit, logger
from ordinaut.workers.job import Job, Plan
from ordinaut.workers.scribe import Pen, Scribe
from ordinaut.workers.settler import Settler
from ordinaut.workers.vault import Vault

Result: TypeAlias = Ended | Parked

log = logger(__name__)


class LeasedRun:
    """A run as the engine sees it: what it asks about it, and where it is written down."""

    __slots__ = ("_job", "_plan", "_scribe", "_settler", "pen")

    def __init__(self, job: Job, plan: Plan, settler: Settler, scribe: Scribe) -> None:
        self._job = job
        self._plan = plan
        self._settler = settler
        self._scribe = scribe
        self.pen: Pen | None = None  # most runs say nothing

    @property
    def run_id(self) -> UUID:
        return self._job.lease.id

    @property
    def task_id(self) -> UUID:
        return self._job.lease.task_id

    @property
    def attempt(self) -> int:
        return self._job.lease.attempt

    @property
    def max_retries(self) -> int:
        return self._plan.definition.max_retries

    @property
    def trigger(self) -> Trigger:
        return self._job.lease.trigger

    @property
    def scheduled_for(self) -> datetime | None:
        return self._job.lease.scheduled_for

    @property
    def agent_id(self) -> UUID:
        return self._plan.definition.created_by

    @property
    def task(self) -> Mapping[str, Json]:
        return self._plan.shown

    async def checkpoint(self, records: Sequence[StepRecord]) -> None:
        announce, self._job.announced = not self._job.announced, True
        await self._settler.note(self._job.lease, tuple(records), announce=announce)

    async def begin(self, record: StepRecord) -> None:
        await self.checkpoint((record,))

    def report(self, report: Report) -> None:
        lease = self._job.lease
        emit("run.report", run_id=lease.id, task_id=lease.task_id, report=report)
        if self.pen is None:
            self.pen = Pen(self._scribe, lease)
        if isinstance(report, LogEntry):
            self.pen.write(report)
        else:
            self.pen.tell(report)


class Execution:
    """Executes jobs with the tools and the journal of this worker."""

    def __init__(
        self,
        registry: ToolRegistry,
        settler: Settler,
        *,
        scribe: Scribe,
        vault: Vault,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._vault = vault
        self._settler = settler
        self._scribe = scribe
        self._clock = clock

    async def perform(self, job: Job) -> Result:
        """Execute a run; whatever happens inside it becomes its result.

        Only :class:`LeaseLost` and the cancellation of the task come through.
        """
        plan = job.plan
        if isinstance(plan, str):
            return self.failed(job, {"code": "invalid_definition", "message": plan})
        pipeline = plan.pipeline
        run = LeasedRun(job, plan, self._settler, self._scribe)
        outcome = await execute(
            pipeline,
            run=run,
            registry=self._registry,
            journal=run,
            clock=self._clock,
            at=job.started_at,
            done=job.done,
            secrets=self._vault.of(run.agent_id) if pipeline.secrets else no_secrets,
            given=job.lease.payload or NOTHING,
        )
        if run.pen is not None:
            await run.pen.lift()
        return self.result(job, plan, outcome)

    def result(self, job: Job, plan: Plan, outcome: Outcome) -> Result:
        """Return what the store is told of an outcome."""
        if isinstance(outcome, Succeeded):
            return self._succeeded(job, outcome)
        definition, now = plan.definition, self._clock.now()
        decision = decide(
            outcome,
            attempt=job.lease.attempt,
            max_retries=definition.max_retries,
            strategy=definition.backoff_strategy,
            base_seconds=definition.backoff_seconds,
            now=now,
            run_id=job.lease.id,
        )
        announce = not job.announced
        match decision:
            case RetryAt(run_at, error):
                return Parked(
                    lease=job.lease,
                    run_at=run_at,
                    error=results.encode(_error_of(outcome, error)),
                    steps=results.step_rows(outcome.steps),
                    announce=announce,
                )
            case Suspend(run_at, waits):
                wait = results.encode([{"step_id": w.step_id, **w.to_json()} for w in waits])
                return Parked(
                    lease=job.lease,
                    run_at=run_at,
                    wait=wait,
                    steps=results.step_rows(outcome.steps),
                    announce=announce,
                )
            case Fail(error):
                return self.failed(job, _error_of(outcome, error), records=outcome.steps)

    def _succeeded(self, job: Job, outcome: Succeeded) -> Ended:
        records, announce = outcome.steps, not job.announced
        rows = results.step_rows(records)
        now = (rows and rows[-1][6]) or self._clock.now().timestamp()
        return Ended(
            job.lease,
            "succeeded",
            job.started_at.timestamp() if job.started_at else now,
            now,
            None if outcome.output is None else results.encode(outcome.output),
            None,
            rows,
            announce,
            results.facts(job.lease, records, announce=announce),
        )

    def failed(
        self,
        job: Job,
        error: Json,
        *,
        records: Sequence[StepRecord] = (),
        status: results.EndStatus = "failed",
    ) -> Ended:
        """Return the end of a run that did not succeed."""
        now, announce = self._clock.now().timestamp(), not job.announced
        return Ended(
            lease=job.lease,
            status=status,
            started_at=job.started_at.timestamp() if job.started_at else now,
            finished_at=now,
            error=results.encode(error),
            steps=results.step_rows(records),
            announce=announce,
            earlier=results.facts(job.lease, records, announce=announce),
        )

    def canceled(self, job: Job) -> Ended:
        """Return the end of a run that was asked to stop."""
        error = {"code": "canceled", "message": "canceled on request"}
        return self.failed(job, error, status="canceled")

    def crashed(self, job: Job, error: Exception) -> Ended:
        """Return the failure of a run in which our own code met what it did not expect."""
        log.exception("a run ended in an unexpected error", run_id=str(job.lease.id))
        message = f"the run could not be executed: {describe(error)}"
        return self.failed(job, {"code": "internal_error", "message": message})


def _error_of(outcome: Outcome, error: StepError) -> Json:
    found = error_json(error, final=False, handled=False)
    step_id = outcome.step_id if isinstance(outcome, Failed) else None
    return found if step_id is None else {**found, "step_id": step_id}
