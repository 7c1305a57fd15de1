"""The parsed definitions of tasks, kept by version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.steps import Pipeline
from ordinaut.errors import InvalidInput
from ordinaut.model import Json, Lease
from ordinaut.store import queue, tasks
from ordinaut.store.database import Tx
from ordinaut.store.tasks import Definition
from ordinaut.workers.job import Job, Plan

CAPACITY = 5_000  # versions of tasks

Key = tuple[int, int]


class Plans:
    """Turns leases into jobs; what is missing is loaded in one query for all of them."""

    def __init__(self, registry: ToolRegistry, *, capacity: int = CAPACITY) -> None:
        self._registry = registry
        self._capacity = capacity
        self._plans: dict[Key, Plan | str] = {}

    async def jobs(self, tx: Tx, leases: Sequence[Lease]) -> list[Job]:
        """Return ``leases`` with their plans, and with what was done of them before."""
        plans = self._plans
        # A UUID's own hash is ten times slower than that of its number.
        keyed = [((held.task_id.int, held.task_version), held) for held in leases]
        missing = {
            key: (held.task_id, held.task_version) for key, held in keyed if key not in plans
        }
        if missing:
            await self._load(tx, missing)
        resumed = [held.id for held in leases if held.resumed]
        done = await queue.checkpoints(tx, resumed) if resumed else {}
        jobs = [Job(held, plans[key], done[held.id] if held.resumed else ()) for key, held in keyed]
        self._trim()
        return jobs

    async def of(self, tx: Tx, task_id: UUID, version: int) -> Plan | str:
        """Return what one version of a task does, or why that can not be said."""
        key = (task_id.int, version)
        if key not in self._plans:
            await self._load(tx, {key: (task_id, version)})
        plan = self._plans[key]
        self._trim()
        return plan

    async def _load(self, tx: Tx, missing: Mapping[Key, tuple[UUID, int]]) -> None:
        wanted = list(missing.values())
        found = await tasks.definitions(tx, wanted)
        for key, pair in zip(missing, wanted, strict=True):
            self._plans[key] = self._plan(pair, found.get(pair))

    def _trim(self) -> None:
        """Forget the oldest that are over the capacity."""
        surplus = len(self._plans) - self._capacity
        for key in list(self._plans)[:surplus] if surplus > 0 else ():
            del self._plans[key]

    def _plan(self, wanted: tuple[UUID, int], definition: Definition | None) -> Plan | str:
        if definition is None:
            return f"task {wanted[0]} has no version {wanted[1]}"
        try:
            pipeline = self._parse(definition.payload)
            return Plan(definition, pipeline, {"title": definition.title})
        except InvalidInput as error:
            text = "; ".join(f"{p.path}: {p.message}" for p in error.problems)
            return f"the pipeline can not be used: {text or error.message}"

    def _parse(self, payload: Json) -> Pipeline:
        try:
            return parse_pipeline(payload, registry=self._registry)
        except InvalidInput:
            # A tool that is missing here may be on another worker: that is for the step to say.
            return parse_pipeline(payload, registry=None)
