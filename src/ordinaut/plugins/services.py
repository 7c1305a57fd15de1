"""What the core does for its own tool packs, over the store."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from datetime import datetime, timedelta
from uuid import UUID

from ordinaut import subscribers
from ordinaut.bus import Bus
from ordinaut.clock import Clock
from ordinaut.engine.tool import NotYet, ToolContext
from ordinaut.errors import Conflict, NotFound, ToolError, Unavailable
from ordinaut.model import Event, Json
from ordinaut.plugins.base import Figures
from ordinaut.store import (
    agents,
    cluster,
    figures,
    journal,
    queue,
    runs,
    schedules,
    tasks,
    triggers,
)
from ordinaut.store.database import Database, Tx
from ordinaut.store.events import RESERVED
from ordinaut.store.runs import Run
from ordinaut.subscribers import Stream

FIRST_LOOK = 0.1  # seconds between looks at a run that is waited for; grows to LAST_LOOK
LAST_LOOK = 2.0
HELD = timedelta(seconds=5)  # a run that takes longer is waited for without holding a worker
LONGEST = timedelta(minutes=5)  # between two looks then

_ENDED = ("succeeded", "failed", "canceled", "dead")
_TOPIC = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class StoreServices:
    """Implements :class:`ordinaut.plugins.base.Services`."""

    def __init__(self, db: Database, clock: Clock, *, redis_url: str) -> None:
        self._db = db
        self._redis_url = redis_url
        self._clock = clock
        self._counting = asyncio.Lock()
        self._seen: str | None = None
        self._run_events: Counter[str] = Counter()

    async def publish(self, call: ToolContext, *, topic: str, payload: Json) -> None:
        """Write an event into the outbox."""
        if not _TOPIC.fullmatch(topic) or topic.split(".")[0] in RESERVED:
            words = ", ".join(RESERVED)
            raise ToolError(
                f"topic {topic!r} can not be published: a topic is words joined by dots, such as "
                f"order.paid, and does not begin with {words}",
                retryable=False,
            )
        kept = call.redacted(payload)
        event = Event(topic, kept, task_id=call.task_id, run_id=call.run_id)
        async with self._db.transaction() as tx:
            await journal.emit(tx, [event])
            await journal.hint(tx)

    async def run_task(
        self, call: ToolContext, *, task_id: UUID, params: Json, wait: bool
    ) -> dict[str, Json]:
        """Enqueue a run of another task; a repeated call finds the run of the first."""
        run_id = derived_id(call)
        async with self._db.transaction() as tx:
            if await _find(tx, run_id) is None:
                await self._enqueue(tx, call, task_id, run_id, params)
        if not wait:
            return {"run_id": str(run_id)}
        ended = await self._end_of(run_id, task_id)
        if ended.status != "succeeded":
            raise ToolError(
                f"run {run_id} of task {task_id} ended as {ended.status}",
                retryable=False,
                details={"run_id": str(run_id), "status": ended.status, "error": ended.error},
            )
        return {"run_id": str(run_id), "status": ended.status, "output": ended.output}

    async def figures(self) -> Figures:
        """Return how the cluster fares; the first call begins to count."""
        now = self._clock.now()
        async with self._counting, self._db.connection() as tx:
            queued = await cluster.queue(tx)
            processes: Counter[tuple[str, str]] = Counter(
                (process.kind, process.state) for process in await cluster.workers(tx, now=now)
            )
            if self._seen is None:
                self._seen = await figures.snapshot(tx)
            self._seen, fresh = await figures.run_events(tx, self._seen)
            self._run_events.update(fresh)
        streams = await self._streams()
        return Figures(
            queue={
                one.state: (one.count, max(0.0, (now - one.oldest_run_at) / timedelta(seconds=1)))
                for one in queued
            },
            processes=processes,
            run_events=dict(self._run_events),
            groups={
                (one.stream, one.group): (one.lag, one.pending, sum(c.dead for c in one.consumers))
                for stream in streams
                for one in stream.groups
            },
            dead_letters={stream.stream: stream.dead_letters for stream in streams},
        )

    async def _streams(self) -> list[Stream]:
        try:
            async with Bus(self._redis_url) as bus:
                return await subscribers.overview(bus)
        except Unavailable:
            return []

    async def _enqueue(
        self, tx: Tx, call: ToolContext, task_id: UUID, run_id: UUID, params: Json
    ) -> None:
        task = (await tasks.get(tx, task_id, owner=await _owner(tx, call))).task
        if task.status == "canceled":
            raise Conflict(f"task {task_id} is canceled and can not be run")
        now = self._clock.now()
        # Counted over events and calls alike, so that no circle escapes through the other.
        depth = 1 + await triggers.depth(tx, call.run_id)
        if depth > triggers.MAX_DEPTH:
            raise ToolError(
                f"{triggers.MAX_DEPTH} runs that started each other; do the tasks form a circle?",
                retryable=False,
            )
        added: dict[str, Json] = {"depth": depth, "called_at": now.isoformat()}
        if params is not None:
            added["params"] = call.redacted(params)
        [timed] = await schedules.load(tx, [task_id])
        work = timed.run("task", run_at=now, payload=added, id=run_id)
        await queue.enqueue(tx, [work], wake=True, now=now)

    async def _end_of(self, run_id: UUID, task_id: UUID) -> Run:
        """Return a run that has ended; raise :class:`NotYet` when it takes long.

        Nobody holds a worker for longer than a moment: those that wait could fill all slots, and
        what they wait for would find none.
        """
        pause = FIRST_LOOK
        while True:
            async with self._db.connection() as tx:
                run = await runs.get(tx, run_id)
            if run.status in _ENDED:
                return run
            now, since = self._clock.now(), _called_at(run)
            if now - since >= HELD:
                until = now + min((now - since) / 4, LONGEST)
                message = f"run {run_id} of task {task_id} goes on"
                raise NotYet(message, since=since, until=until)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK)


def derived_id(call: ToolContext) -> UUID:
    """Return the same UUIDv7 for every attempt at this call, in the time of its own run."""
    digest = int.from_bytes(hashlib.sha256(call.idempotency_key.encode()).digest()[:10])
    low = digest & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(
        int=(call.run_id.int >> 80) << 80 | 0x7 << 76 | (digest >> 68) << 64 | 0b10 << 62 | low
    )


def _called_at(run: Run) -> datetime:
    """When the run was started by another; those of earlier versions do not say."""
    payload = run.payload if isinstance(run.payload, dict) else {}
    written = payload.get("called_at")
    return datetime.fromisoformat(written) if isinstance(written, str) else run.run_at


async def _find(tx: Tx, run_id: UUID) -> Run | None:
    try:
        return await runs.get(tx, run_id)
    except NotFound:
        return None


async def _owner(tx: Tx, call: ToolContext) -> UUID | None:
    """Whose tasks the run may touch; ``None`` stands for everybody's."""
    if call.agent_id is None:
        return None
    agent = await agents.get(tx, call.agent_id)
    return None if {"admin", "tasks:run:all"} & set(agent.scopes) else call.agent_id
