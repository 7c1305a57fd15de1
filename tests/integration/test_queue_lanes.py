"""What runs share: rates per key, and the workers per agent."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from ordinaut.engine.lanes import lane, parse_rate
from ordinaut.errors import InvalidInput
from ordinaut.model import NO_LANE, NOBODY, Lane, Lease, NewWork, Rate
from ordinaut.store import queue, upkeep
from ordinaut.store.database import Database
from ordinaut.store.queue import START, Turn
from queueing import (
    LEASE,
    NOW,
    WORKER,
    ended,
    enqueue,
    ids,
    later,
    lease,
    make_task,
    rows,
    settle,
    work,
)

ALICE, BOB, CAROL = UUID(int=1 << 64), UUID(int=2 << 64), UUID(int=3 << 64)
PER_MINUTE = Rate(3, 60)


@pytest.fixture
async def task_id(db: Database) -> UUID:
    return await make_task(db)


# --- Rates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1/s", Rate(1, 1)),
        ("10/min", Rate(10, 60)),
        ("500/hour", Rate(500, 3600)),
        ("10000/day", Rate(10_000, 86_400)),
    ],
)
def test_a_rate_is_read(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "10", "10/", "/min", "0/min", "-1/min", "10/minute", "10 / min", "1.5/s", "10001/s",
     "010/s", "٣/s", "10/min\n", "1/week"],
)  # fmt: skip
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match="10/min"):
        parse_rate(text)


def test_the_lane_of_a_task() -> None:
    task = UUID(int=7)
    own = f"task:{task}"

    def of(key: str | None, most: int, rate: str | None, *, queued: bool = False) -> Lane:
        overlap = "queue" if queued else "allow"
        return lane(task, key=key, most=most, rate=rate, overlap=overlap)

    assert of(None, 1, None) is NO_LANE
    assert of("gpu", 4, None) == Lane("gpu", 4)
    assert of("gpu", 4, "3/min") == Lane("gpu", 4, PER_MINUTE)
    assert of(None, 1, "3/min") == Lane(own, 10_000, PER_MINUTE)
    assert of(None, 9, None, queued=True) == Lane(own, 1)
    assert of("gpu", 9, "3/min", queued=True) == Lane("gpu", 1, PER_MINUTE)


def rated(task_id: UUID, count: int, *, rate: Rate = PER_MINUTE, most: int = 100) -> list[NewWork]:
    shared = Lane("mail", most, rate)
    return [work(task_id, lane=shared) for _ in range(count)]


async def test_a_rate_bounds_the_starts_in_any_span(db: Database, task_id: UUID) -> None:
    items = rated(task_id, 8)
    await enqueue(db, *items)
    first = await lease(db, limit=2)
    assert ids(first) == ids(items[:2])
    await settle(db, *map(ended, first))  # an end makes no room: starts count
    assert ids(await lease(db, now=later(20))) == [items[2].id]
    assert await lease(db, now=later(59)) == []
    assert ids(await lease(db, now=later(60))) == ids(items[3:5])  # the first two have aged out
    assert await lease(db, now=later(79)) == []
    assert ids(await lease(db, now=later(80))) == [items[5].id]


async def test_other_keys_and_free_work_do_not_wait_for_a_rate(db: Database, task_id: UUID) -> None:
    full, free = rated(task_id, 5), work(task_id)
    other = work(task_id, lane=Lane("print", 1, Rate(1, 3600)))
    await enqueue(db, *full, other, free)
    assert set(ids(await lease(db))) == {*ids(full[:3]), other.id, free.id}
    assert await lease(db, now=later(1)) == []


async def test_a_rate_and_a_concurrency_limit_hold_together(db: Database, task_id: UUID) -> None:
    items = rated(task_id, 5, most=2)
    await enqueue(db, *items)
    first = await lease(db)
    assert ids(first) == ids(items[:2])
    await settle(db, *map(ended, first))
    assert ids(await lease(db, now=later(1))) == [items[2].id]  # room for two, one start left


async def test_what_was_leased_and_given_back_counts_as_a_start(
    db: Database, task_id: UUID
) -> None:
    items = rated(task_id, 4)
    await enqueue(db, *items)
    found = await lease(db)
    async with db.connection() as tx:
        await queue.release(tx, worker_id=WORKER, unstarted=found, now=NOW)
    assert await lease(db, now=later(59)) == []
    assert ids(await lease(db, now=later(60))) == ids(items[:3])


async def test_starts_that_count_no_more_are_swept(db: Database, task_id: UUID) -> None:
    await enqueue(db, *rated(task_id, 3))
    await lease(db)
    for at, left in ((later(59), 3), (later(61), 0)):
        async with db.transaction() as tx:
            keep = timedelta(days=90)
            await upkeep.sweep(tx, now=at, keep_runs=keep, keep_events=keep, keep_deliveries=keep)
        counted = await rows(db, "SELECT coalesce(sum(runs), 0)::integer FROM rated_start")
        assert counted == [(left,)]


async def test_a_rate_holds_under_racing_workers(db: Database, task_id: UUID) -> None:
    rate = Rate(5, 10)
    await enqueue(db, *rated(task_id, 60, rate=rate))
    starts: list[datetime] = []
    seconds = iter(range(10_000))

    async def worker(worker_id: UUID) -> None:
        while len(starts) < 60:
            now = later(next(seconds))  # each look is a second later, whoever looks
            found = await lease(db, worker=worker_id, limit=4, now=now)
            starts.extend(now for _ in found)
            await settle(db, *map(ended, found), worker=worker_id)

    await asyncio.gather(*(worker(UUID(int=n)) for n in range(1, 9)))
    starts.sort()
    assert len(starts) == 60
    for first, sixth in zip(starts, starts[5:], strict=False):
        assert sixth - first >= timedelta(seconds=rate.seconds)


async def test_a_redriven_run_keeps_to_the_rate_of_its_task(db: Database, task_id: UUID) -> None:
    [held] = await _settled_failure(db, task_id)
    async with db.transaction() as tx:
        await queue.redrive(tx, held.id, lane=Lane("mail", 5, Rate(1, 60)), now=NOW)
    await enqueue(db, *rated(task_id, 2, rate=Rate(1, 60)))
    assert len(await lease(db)) == 1
    assert await lease(db) == []


async def _settled_failure(db: Database, task_id: UUID) -> list[Lease]:
    await enqueue(db, work(task_id))
    found = await lease(db)
    await settle(db, ended(found[0], status="failed"))
    return found


# --- Agents ---------------------------------------------------------------------------------


def of(agent: UUID, task_id: UUID, count: int, **fields: object) -> list[NewWork]:
    return [work(task_id, created_by=agent, **fields) for _ in range(count)]


async def test_a_flood_of_one_agent_does_not_delay_another(db: Database, task_id: UUID) -> None:
    flood = of(ALICE, task_id, 1000, priority=9)
    few = of(BOB, task_id, 3, priority=1)
    await enqueue(db, *flood, *few)
    found = ids(await lease(db, limit=10))
    assert set(ids(few)) < set(found)
    assert sum(run in set(ids(flood)) for run in found) == 5


async def test_an_agent_that_is_alone_gets_everything(db: Database, task_id: UUID) -> None:
    await enqueue(db, *of(BOB, task_id, 20))
    async with db.connection() as tx:
        for agent in (NOBODY, ALICE, BOB, CAROL):
            turn = Turn(agent)
            found = await queue.lease(
                tx, worker_id=WORKER, limit=5, lease_for=LEASE, turn=turn, now=NOW
            )
            assert len(found.leases) == 5
            assert found.turn == START


@pytest.mark.parametrize("keyed", [False, True])
async def test_one_run_at_a_time_goes_round_the_agents(
    db: Database, task_id: UUID, *, keyed: bool
) -> None:
    owners = {}
    for agent, count in ((ALICE, 40), (BOB, 4), (CAROL, 40)):
        items = of(agent, task_id, count)
        owners |= {item.id: agent for item in items}
        await enqueue(db, *items)
    if keyed:
        items = of(BOB, task_id, 4, lane=Lane("k", 100))
        owners |= {item.id: BOB for item in items}
        await enqueue(db, *items)
    served: list[UUID] = []
    turn = START
    async with db.connection() as tx:
        for _ in range(12):
            found = await queue.lease(
                tx, worker_id=WORKER, limit=1, lease_for=LEASE, keyed=keyed, turn=turn, now=NOW
            )
            served += [owners[held.id] for held in found.leases]
            turn = found.turn
    assert Counter(served) == {ALICE: 4, BOB: 4, CAROL: 4}
    assert all(one != other for one, other in pairwise(served))


async def test_a_short_answer_says_whether_there_may_be_more(db: Database, task_id: UUID) -> None:
    await enqueue(db, *of(ALICE, task_id, 100), *of(BOB, task_id, 1))
    async with db.connection() as tx:
        first = await queue.lease(tx, worker_id=WORKER, limit=20, lease_for=LEASE, now=NOW)
        assert (len(first.leases), first.more) == (11, True)
        rest = await queue.lease(tx, worker_id=WORKER, limit=90, lease_for=LEASE, now=NOW)
        assert (len(rest.leases), rest.more) == (90, True)
        none = await queue.lease(tx, worker_id=WORKER, limit=90, lease_for=LEASE, now=NOW)
        assert (len(none.leases), none.more) == (0, False)


async def test_who_begins_in_the_middle_looks_at_the_beginning_as_well(
    db: Database, task_id: UUID
) -> None:
    await enqueue(db, *of(ALICE, task_id, 5), *of(CAROL, task_id, 1))
    async with db.connection() as tx:
        found = await queue.lease(
            tx, worker_id=WORKER, limit=5, lease_for=LEASE, turn=Turn(BOB), now=NOW
        )
        assert (len(found.leases), found.more, found.turn) == (1, True, START)


async def test_more_agents_than_runs_to_take_are_served_in_turns(
    db: Database, task_id: UUID
) -> None:
    agents = [UUID(int=n << 64) for n in range(1, 31)]
    items = [item for agent in agents for item in of(agent, task_id, 2)]
    owners = {item.id: item.created_by for item in items}
    await enqueue(db, *items)
    served: list[UUID] = []
    turn = START
    async with db.connection() as tx:
        while len(served) < 30:
            found = await queue.lease(
                tx, worker_id=WORKER, limit=7, lease_for=LEASE, turn=turn, now=NOW
            )
            served += [owners[held.id] for held in found.leases]
            turn = found.turn
    assert Counter(served[:28]).most_common(1)[0][1] == 1


async def test_runs_queued_before_they_had_an_owner_are_served(db: Database, task_id: UUID) -> None:
    await enqueue(db, work(task_id), *of(ALICE, task_id, 5))
    assert len(await lease(db, limit=9)) == 6


# --- Many keys ------------------------------------------------------------------------------


async def test_the_order_is_exact_although_little_of_each_key_is_read(
    db: Database, task_id: UUID
) -> None:
    urgent = [work(task_id, priority=9, lane=Lane("a", 100)) for _ in range(40)]
    others = [work(task_id, priority=n % 8 + 1, lane=Lane(f"b{n}", 100)) for n in range(60)]
    await enqueue(db, *others, *urgent)
    taken: list[UUID] = []
    while found := await lease(db, limit=20):
        taken += ids(found)
    assert taken[:40] == ids(urgent)
    priority = {item.id: item.priority for item in others}
    rest = [priority[run] for run in taken[40:]]
    assert rest == sorted(rest, reverse=True)


async def test_runs_with_and_without_a_key_come_in_one_order(db: Database, task_id: UUID) -> None:
    lanes = (NO_LANE, Lane("wide", 100), Lane("rated", 100, Rate(100, 60)))
    items = [work(task_id, priority=n % 9 + 1, lane=lanes[n % 3]) for n in range(60)]
    stuck = [work(task_id, priority=9, lane=Lane("full", 1)) for _ in range(30)]
    await enqueue(db, stuck[0])
    await lease(db)
    await enqueue(db, *items)
    priority = {item.id: item.priority for item in items}
    taken = [priority[run] for _ in range(3) for run in ids(await lease(db, limit=10))]
    await enqueue(db, *stuck[1:])  # a key that is full stands in front, and changes nothing
    while found := await lease(db, limit=5):
        taken += [priority[run] for run in ids(found)]
    assert taken == sorted(priority.values(), reverse=True)


@pytest.mark.parametrize(("first", "others", "taken"), [(1, 5, 1), (5, 1, 5)])
async def test_of_different_limits_that_of_the_next_run_decides(
    db: Database, task_id: UUID, first: int, others: int, taken: int
) -> None:
    items = [work(task_id, lane=Lane("k", most)) for most in (first, *[others] * 7)]
    await enqueue(db, *items)
    assert ids(await lease(db)) == ids(items[:taken])


async def test_more_keys_than_are_read_at_a_time_are_served_in_turns(
    db: Database, task_id: UUID
) -> None:
    items = [work(task_id, lane=Lane(f"key {n % 600}", 1)) for n in range(1200)]
    await enqueue(db, *items)
    key_of = {item.id: item.lane.concurrency_key for item in items}
    served: list[str | None] = []
    found = queue.Leased([], keyed=True, more=True)
    async with db.connection() as tx:
        while found.more:
            found = await queue.lease(
                tx, worker_id=WORKER, limit=100, lease_for=LEASE, turn=found.turn, now=NOW
            )
            served += [key_of[held.id] for held in found.leases]
        assert Counter(served) == dict.fromkeys((f"key {n}" for n in range(600)), 1)

        # All are full now: whoever looks finds nothing, and comes to an end.
        looks = 0
        found = queue.Leased([], keyed=True, more=True)
        while found.more:
            found = await queue.lease(
                tx, worker_id=WORKER, limit=100, lease_for=LEASE, turn=found.turn, now=NOW
            )
            assert found.leases == []
            looks += 1
        assert looks <= 4
