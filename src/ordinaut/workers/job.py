"""A leased run on its way through the worker."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ordinaut.engine.steps import Pipeline
from ordinaut.model import Json, Lease, StepRecord
from ordinaut.store.tasks import Definition


@dataclass(frozen=True, slots=True)
class Plan:
    """What the runs of one version of a task do, parsed once."""

    definition: Definition
    pipeline: Pipeline
    shown: Mapping[str, Json]  # what templates see of the task


@dataclass(slots=True)
class Job:
    """A lease with all that its execution needs; ``plan`` may be the reason why there is none.

    ``announced`` says that ``run.started`` is written, or on its way; ``announcement`` is that
    way, which must come to its end before the run does.
    """

    lease: Lease
    plan: Plan | str
    done: Sequence[StepRecord] = ()
    started_at: datetime | None = None
    announced: bool = False
    announcement: Future[None] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing has to be watched while it runs: no deadline, no suspicion."""
        plan = self.plan
        return not self.lease.crashes and (
            isinstance(plan, str) or plan.definition.timeout_seconds is None
        )
