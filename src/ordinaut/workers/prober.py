"""Polls for condition tasks: claims what is due, calls the probes, keeps what they say.

::

    due ──claim──► call the tool ──► judge ──┬─ nothing new ─► the state
                                             └─ fire, edge suppressed, failure ─► polling.py

A poll is neither a run nor in the queue: nothing of it stays but the state of the condition. It
has its own places beside the slots, and its claim is as long as its call may take, so nobody
renews it. When the worker dies, another polls again after that; when it leaves in order, at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid5

import psycopg

from ordinaut.clock import Clock
from ordinaut.engine import probe as engine
from ordinaut.engine.attempt import Attempt, error_json
from ordinaut.engine.calls import describe
from ordinaut.engine.context import RunContext
from ordinaut.engine.invocation import invoke
from ordinaut.engine.outcome import RunInfo, Unwritten
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.steps import Probe
from ordinaut.engine.tool import NotYet
from ordinaut.errors import StepError, StepTimeout
from ordinaut.model import Json
from ordinaut.store import probes
from ordinaut.store.probes import Poll
from ordinaut.telemetry import emit, logger
from ordinaut.workers import polling
from ordinaut.workers.job import Plan
from ordinaut.workers.line import Line, is_passing, pause
from ordinaut.workers.plans import Plans
from ordinaut.workers.polling import Finding
from ordinaut.workers.slots import GRACE
from ordinaut.workers.vault import Vault

LOOK = 1.0  # seconds between looks when nothing is due sooner
TRIES = 8  # to write down what a poll found, while the database is away
LAST_WORD = 5.0  # seconds to give back what was not ended

log = logger(__name__)


class Prober:
    """Owns the connection on which polls are claimed and settled."""

    def __init__(
        self,
        line: Line,
        *,
        worker_id: UUID,
        registry: ToolRegistry,
        vault: Vault,
        clock: Clock,
        places: int,
        grace: float = GRACE,
    ) -> None:
        self._line = line
        self._talking = asyncio.Lock()
        self._worker_id = worker_id
        self._registry = registry
        self._plans = Plans(registry)
        self._vault = vault
        self._clock = clock
        self._places = places
        self._grace = grace
        self._polls: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Claim no more; :meth:`run` returns when what is under way has ended."""
        self._stopping = True
        self._news.set()

    async def run(self) -> None:
        """Poll what is due until :meth:`stop`."""
        failures = 0
        try:
            while not self._stopping:
                try:
                    await self.run_once()
                    await self._sleep()
                    failures = 0
                except psycopg.Error as error:
                    failures += 1
                    log.warning("polls could not be claimed yet", error=str(error))
                    await self._wait(pause(failures))
        finally:
            await self._leave()

    async def run_once(self, *, now: datetime | None = None) -> Sequence[asyncio.Task[None]]:
        """Begin the polls that are due and for which there is room; return them.

        ``now`` replaces the clocks in tests.
        """
        room = self._places - len(self._polls)
        if room <= 0:
            return ()
        async with self._talking:
            tx = await self._line.open()
            claimed = await probes.claim(tx, worker_id=self._worker_id, limit=room, now=now)
        begun = [asyncio.create_task(self._poll(poll, now)) for poll in claimed]
        for task in begun:
            self._polls.add(task)
            task.add_done_callback(self._ended)
        return begun

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._polls.discard(task)
        if len(self._polls) == self._places - 1:
            self._news.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a poll was given up and is done again", error=describe(error))

    async def _sleep(self) -> None:
        """Wait until a poll is due, or a place is free, and not longer than until the next look."""
        if len(self._polls) >= self._places:
            await self._wait(LOOK)
            return
        async with self._talking:
            due_in = await probes.due_in(await self._line.open())
        if due_in is None or due_in > 0:
            # Workers look apart from each other, and not too early for what they look for.
            longest = LOOK * random.uniform(0.75, 1.0)
            await self._wait(longest if due_in is None else min(longest, due_in + 0.002))

    async def _wait(self, seconds: float) -> None:
        if not self._stopping:
            self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def _leave(self) -> None:
        """Let polls end within the grace, and give back those that did not."""
        if self._polls:
            await asyncio.wait(self._polls, timeout=self._grace)
        for task in self._polls:
            task.cancel()
        if self._polls:
            await asyncio.wait(self._polls, timeout=self._grace)
        try:
            async with asyncio.timeout(LAST_WORD), self._talking:
                await probes.release(await self._line.open(), worker_id=self._worker_id)
        except (psycopg.Error, TimeoutError) as error:
            log.warning("polls were not given back; their claims will expire", error=str(error))

    async def _poll(self, poll: Poll, now: datetime | None) -> None:
        async with self._talking:
            plan = await self._plans.of(await self._line.open(), poll.task_id, poll.version)
        finding = await self._find(poll, plan, now=now)
        finding = finding._replace(at=now or self._clock.now())
        failures = 0
        while True:
            try:
                async with self._talking:
                    tx = await self._line.open()
                    fired = await polling.settle(tx, poll, finding, worker_id=self._worker_id)
            except psycopg.Error as error:
                failures += 1
                if failures >= TRIES or not is_passing(error):
                    raise
                await asyncio.sleep(pause(failures))
            else:
                failed = finding.error is not None
                emit("probe.polled", task_id=poll.task_id, fired=fired, failed=failed)
                return

    async def _find(self, poll: Poll, plan: Plan | str, *, now: datetime | None) -> Finding:
        """Call the probe and evaluate the condition; whatever goes wrong is in the answer."""
        at = now or self._clock.now()
        if poll.ends_at is not None and at > poll.ends_at:
            return Finding(None, at)
        if isinstance(plan, str) or plan.pipeline.probe is None:
            message = plan if isinstance(plan, str) else "the task has no probe"
            return Finding(None, at, error={"code": "invalid_definition", "message": message})
        probe = plan.pipeline.probe
        try:
            result = await self._call(poll, plan, probe, at=at)
            held = engine.holds(poll.expr, result, now=at)
        except StepError as error:
            problem = error_json(error, final=False, handled=False)
            return Finding(probe, at, error=problem)
        except NotYet as error:
            message = f"a probe can not wait: {error.message}"
            return Finding(probe, at, error={"code": StepTimeout.code, "message": message})
        except Exception as error:  # of our own code: the poll fails, the worker goes on
            log.exception("a poll met an unexpected error", task_id=str(poll.task_id))
            message = f"the poll could not be done: {describe(error)}"
            return Finding(probe, at, error={"code": "internal_error", "message": message})
        return Finding(probe, at, held=held, result=result)

    async def _call(self, poll: Poll, plan: Plan, probe: Probe, *, at: datetime) -> Json:
        """Call the tool as a step would, with the same key when a poll is repeated."""
        assert probe.call.uses is not None
        tool = self._registry.find(probe.call.uses)
        if tool is not None and tool.effect == "at_most_once":
            raise StepError(f'"{tool.name}" is at_most_once and can not be a probe')
        arguments = probe.call.arguments
        run = RunInfo(
            run_id=uuid5(poll.task_id, poll.due_at.isoformat()),
            task_id=poll.task_id,
            trigger="condition",
            scheduled_for=poll.due_at,
            agent_id=plan.definition.created_by,
            task=plan.shown,
        )
        names = frozenset() if arguments is None else arguments.secrets
        owner = plan.definition.created_by
        return await invoke(
            Attempt(probe.call, None, None, None, at),
            RunContext(run, plan.pipeline, {}).view(),
            run=run,
            registry=self._registry,
            journal=Unwritten(),
            clock=self._clock,
            secrets=await self._vault.of(owner)(names) if names else None,
        )
