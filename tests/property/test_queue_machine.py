"""The queue against a model: any order of verbs by several workers that may be behind.

A worker remembers every lease it ever got and may use an old one at any time, as a frozen worker
does. The model says what must then happen; after each step the tables are compared with it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ordinaut.model import Lease
from ordinaut.store import database, queue
from ordinaut.store.database import Database, Tx
from queueing import LEASE, NOW, checkpoint, ended, make_task, parked, rows, step, work

WORKERS = tuple(UUID(int=number) for number in (1, 2, 3))
STEP = timedelta(seconds=11)

worker_ids = st.sampled_from(WORKERS)


@dataclass
class Run:
    """What the model knows of one run."""

    state: str
    run_at: datetime
    order: tuple[float, int]
    key: str | None
    holder: UUID | None = None
    token: int = 0
    until: datetime = NOW
    attempt: int = 0
    crashes: int = 0
    proven: bool = True  # whether a crash is blamed on it
    cancel: bool = False
    waiting: bool = False
    topics: list[str] = field(default_factory=list)
    steps: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        return self.state in ("succeeded", "failed", "canceled", "dead")

    def free(self, state: str) -> None:
        self.state, self.holder = state, None

    def end(self, status: str) -> None:
        self.free(status)
        self.topics.append(f"run.{status}")


class QueueMachine(RuleBasedStateMachine):
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = NOW
        self.runs: dict[UUID, Run] = {}
        self.leases: list[tuple[UUID, Lease]] = []
        self.announced: set[tuple[UUID, int]] = set()

    @initialize()
    def connect(self) -> None:
        async def prepare() -> tuple[Tx, UUID, UUID]:
            tx = await database.connect(self.url)
            await tx.execute("TRUNCATE due_work, task_run, step_run, event")
            async with Database(self.url, size=2) as db:
                task_id = await make_task(db)
            [(owner,)] = await rows(tx, "SELECT created_by FROM task WHERE id = %s", task_id)
            return tx, task_id, owner

        self.tx, self.task_id, self.owner = self.runner.run(prepare())

    def teardown(self) -> None:
        if hasattr(self, "tx"):
            self.runner.run(self.tx.close())
        self.runner.close()

    def do(self, verb: Any, *args: Any, **named: Any) -> Any:
        return self.runner.run(verb(self.tx, *args, **named))

    def is_ours(self, worker_id: UUID, held: Lease) -> bool:
        run = self.runs[held.id]
        return run.state == "leased" and (run.holder, run.token) == (worker_id, held.token)

    def announce(self, held: Lease) -> bool:
        """Tell whether this lease's run.started is still to be written, and note that it is."""
        fresh = (held.id, held.token) not in self.announced
        self.announced.add((held.id, held.token))
        return fresh

    # Verbs

    @rule(
        delay=st.sampled_from([-30, 0, 15]),
        priority=st.integers(1, 9),
        key=st.sampled_from([None, None, "k"]),
    )
    def enqueue(self, delay: int, priority: int, key: str | None) -> None:
        at = self.now + timedelta(seconds=delay)
        item = work(
            self.task_id,
            run_at=at,
            priority=priority,
            created_by=self.owner,
            concurrency_key=key,
            max_concurrency=2,
        )
        assert self.do(queue.enqueue, [item], now=self.now) == [item.id]
        self.runs[item.id] = Run(
            "ready" if delay <= 0 else "scheduled", at, order_of(at, priority), key,
            topics=["run.queued"],
        )  # fmt: skip

    @rule(factor=st.integers(1, 4))
    def pass_time(self, factor: int) -> None:
        self.now += factor * STEP

    @rule()
    def promote(self) -> None:
        due = [
            run
            for run in self.runs.values()
            if run.state in ("scheduled", "waiting") and run.run_at <= self.now
        ]
        assert self.do(queue.promote, now=self.now, limit=1000) == len(due)
        for run in due:
            if run.state == "waiting":
                run.topics.append("run.queued")
            run.state = "ready"

    @rule(worker_id=worker_ids, limit=st.integers(1, 4))
    def lease(self, worker_id: UUID, limit: int) -> None:
        self.take(worker_id, limit)

    @precondition(lambda self: self.leases)
    @rule(worker_id=worker_ids)
    def freeze(self, worker_id: UUID) -> None:
        """Let all leases expire, and a worker that still has old ones get the same runs again."""
        self.now += LEASE + STEP
        self.expire_all()
        self.take(worker_id, 4)

    def take(self, worker_id: UUID, limit: int) -> None:
        found = self.do(
            queue.lease, worker_id=worker_id, limit=limit, lease_for=LEASE, now=self.now
        )
        expected = self.leasable(limit)
        orders = [self.runs[held.id].order[0] for held in found.leases]
        assert orders == sorted(orders)
        assert sorted(orders) == sorted(self.runs[run_id].order[0] for run_id in expected)
        for held in found.leases:
            run = self.runs[held.id]
            assert run.state == "ready"
            run.state, run.holder, run.until = "leased", worker_id, self.now + LEASE
            run.token += 1
            run.attempt += 1
            run.proven = run.crashes == 0
            assert (held.token, held.attempt, held.crashes) == (run.token, run.attempt, run.crashes)
            self.leases.append((worker_id, held))

    def leasable(self, limit: int) -> list[UUID]:
        """Return what a lease takes: the most urgent, at most two of a key at a time."""
        room = 2 - sum(run.state == "leased" and run.key == "k" for run in self.runs.values())
        ready = [(run.order, run_id) for run_id, run in self.runs.items() if run.state == "ready"]
        chosen: list[UUID] = []
        for _, run_id in sorted(ready):
            if self.runs[run_id].key == "k":
                if room <= 0:
                    continue
                room -= 1
            chosen.append(run_id)
        return chosen[:limit]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        worker_id, held = data.draw(st.sampled_from(self.leases))
        kept = self.do(queue.renew, [held], worker_id=worker_id, lease_for=LEASE, now=self.now)
        run = self.runs[held.id]
        if self.is_ours(worker_id, held):
            assert kept == {held.id: run.cancel}
            run.until = self.now + LEASE
        else:
            assert kept == {}

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), status=st.sampled_from(["succeeded", "failed"]))
    def settle(self, data: st.DataObject, status: str) -> None:
        worker_id, held = data.draw(st.sampled_from(self.leases))
        ours = self.is_ours(worker_id, held)
        announce = self.announce(held) if ours else True
        result = ended(held, status=status, steps=[step(f"end{held.token}")], announce=announce)
        lost = self.do(queue.settle, [result], worker_id=worker_id)
        assert lost == (set() if ours else {held.id})
        if ours:
            run = self.runs[held.id]
            run.topics += ["run.started"] * announce + ["step.succeeded"]
            run.steps.add(f"end{held.token}")
            run.end(status)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), wait=st.booleans())
    def park(self, data: st.DataObject, wait: bool) -> None:
        worker_id, held = data.draw(st.sampled_from(self.leases))
        ours = self.is_ours(worker_id, held)
        announce = self.announce(held) if ours else True
        at = self.now + STEP
        more = {"wait": {"kind": "until"}} if wait else {"error": {"code": "x"}}
        result = parked(held, run_at=at, announce=announce, **more)
        lost = self.do(queue.park, [result], worker_id=worker_id)
        assert lost == (set() if ours else {held.id})
        if not ours:
            return
        run = self.runs[held.id]
        run.topics += ["run.started"] * announce + ["run.waiting" if wait else "run.retrying"]
        run.free("waiting" if wait else "scheduled")
        run.attempt -= wait
        run.run_at = at
        run.order = (at.timestamp() * 1000 + run.order[1], run.order[1])
        if run.cancel:
            run.end("canceled")

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), records=st.booleans())
    def checkpoint(self, data: st.DataObject, records: bool) -> None:
        worker_id, held = data.draw(st.sampled_from(self.leases))
        ours = self.is_ours(worker_id, held)
        announce = self.announce(held) if ours else True
        name = f"step{held.token}"
        note = checkpoint(held, *([step(name)] if records else []), announce=announce)
        lost = self.do(queue.checkpoint, [note], worker_id=worker_id)
        assert lost == (set() if ours else {held.id})
        if ours:
            run = self.runs[held.id]
            run.proven = True
            run.topics += ["run.started"] * announce + ["step.succeeded"] * records
            run.steps |= {name} if records else set()

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), started=st.booleans())
    def release(self, data: st.DataObject, started: bool) -> None:
        worker_id, held = data.draw(st.sampled_from(self.leases))
        ours = self.is_ours(worker_id, held)
        which = {"started" if started else "unstarted": [held]}
        released = self.do(queue.release, worker_id=worker_id, now=self.now, **which)
        assert released == ({held.id} if ours else set())
        if ours:
            run = self.runs[held.id]
            run.free("ready")
            run.attempt -= 1
            run.topics += ["run.queued"] * started
            if run.cancel:
                run.end("canceled")

    @rule()
    def expire(self) -> None:
        self.expire_all()

    def expire_all(self) -> None:
        gone = [run for run in self.runs.values() if run.state == "leased" and run.until < self.now]
        buried = 0
        for run in gone:
            run.crashes += run.proven
            if run.cancel or run.crashes >= queue.MAX_CRASHES:
                run.end("canceled" if run.cancel else "dead")
                buried += 1
            else:
                run.free("ready")
                run.topics.append("run.retrying")
        found = self.do(queue.expire, now=self.now, limit=1000)
        assert found == queue.Expired(len(gone) - buried, buried)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(list(self.runs)))
        run = self.runs[run_id]
        found = self.do(queue.cancel, run_ids=[run_id], now=self.now)
        if run.over:
            assert found == queue.Canceled((), ())
        elif run.state == "leased":
            assert found == queue.Canceled((), (run_id,))
            run.cancel = True
        else:
            assert found == queue.Canceled((run_id,), ())
            run.end("canceled")

    @precondition(lambda self: any(run.over for run in self.runs.values()))
    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        over = [run_id for run_id, run in self.runs.items() if run.over]
        run_id = data.draw(st.sampled_from(over))
        run = self.runs[run_id]
        try:
            self.do(queue.redrive, run_id, now=self.now)
        except queue.NotFound:
            assert run.state == "succeeded"
            return
        assert run.state != "succeeded"
        run.free("ready")
        run.topics.append("run.queued")
        run.attempt = run.crashes = 0
        run.cancel = run.waiting = False
        run.run_at, run.key = self.now, None
        run.order = order_of(self.now, 5)

    # What holds after every step

    @invariant()
    def tables_equal_the_model(self) -> None:
        if not hasattr(self, "tx"):
            return
        queued = self.query(
            "SELECT id, state, locked_by, lease_token, attempt, crashes, cancel_requested "
            "FROM due_work"
        )
        assert {row[0]: row[1:] for row in queued} == {
            run_id: (run.state, run.holder, run.token, run.attempt, run.crashes, run.cancel)
            for run_id, run in self.runs.items()
            if not run.over
        }
        history = self.query("SELECT id, status FROM task_run")
        assert dict(history) == {run_id: run.state for run_id, run in self.runs.items() if run.over}

    def query(self, text: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.runner.run(rows(self.tx, text))
        return found

    @invariant()
    def each_change_is_one_event(self) -> None:
        if not hasattr(self, "tx"):
            return
        told: dict[UUID, list[str]] = {run_id: [] for run_id in self.runs}
        for run_id, topic in self.query("SELECT run_id, topic FROM fact ORDER BY seq"):
            told[run_id].append(topic)
        assert told == {run_id: run.topics for run_id, run in self.runs.items()}

    @invariant()
    def a_checkpoint_is_never_lost(self) -> None:
        if not hasattr(self, "tx"):
            return
        found: dict[UUID, set[str]] = {run_id: set() for run_id in self.runs}
        for run_id, step_id in self.query("SELECT run_id, step_id FROM step_run"):
            found[run_id].add(step_id)
        assert found == {run_id: run.steps for run_id, run in self.runs.items()}


def order_of(at: datetime, priority: int) -> tuple[float, int]:
    """Return the sort key, and the part of it that priority makes."""
    return (at.timestamp() * 1000 - priority * 60_000, -priority * 60_000)


def test_the_queue_behaves_as_its_model(database_url: str) -> None:
    machine = type("Machine", (QueueMachine,), {"url": database_url})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
