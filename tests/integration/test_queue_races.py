"""What must hold when many workers want the same work at the same moment."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter, defaultdict
from datetime import timedelta
from uuid import UUID

import pytest

from ordinaut.model import Lane, Lease
from ordinaut.store import database, queue
from ordinaut.store.database import Database, Tx
from queueing import ended, enqueue, make_task, rows, work

pytestmark = pytest.mark.pooled

WORKERS = 8
LEASE = timedelta(seconds=60)


async def racing(db: Database, work_on: object) -> None:
    """Run eight workers, each on a connection of its own, until none finds anything."""
    connections = [await database.connect(db.url, pooled=db.pooled) for _ in range(WORKERS)]
    try:
        await asyncio.gather(
            *(work_on(tx, UUID(int=i + 1)) for i, tx in enumerate(connections))  # type: ignore[operator]
        )
    finally:
        for tx in connections:
            await tx.close()


@pytest.mark.parametrize("keyed", [True, False])
async def test_every_run_is_leased_by_one_worker(db: Database, keyed: bool) -> None:
    task_id = await make_task(db)
    items = [work(task_id) for _ in range(2000)]
    await enqueue(db, *items)
    owners: dict[UUID, list[UUID]] = defaultdict(list)

    async def take(tx: Tx, worker_id: UUID) -> None:
        while True:
            found = await queue.lease(
                tx, worker_id=worker_id, limit=17, lease_for=LEASE, keyed=keyed
            )
            if not found.leases:
                return
            for held in found.leases:
                owners[held.id].append(worker_id)

    await racing(db, take)
    assert len(owners) == 2000
    assert all(len(found) == 1 for found in owners.values())
    assert len({owner for [owner] in owners.values()}) > 1


async def test_a_concurrency_key_holds_under_racing_workers(db: Database) -> None:
    task_id = await make_task(db)
    limits = {"one": 1, "two": 2, "five": 5}
    items = [
        work(task_id, concurrency_key=key, max_concurrency=limit)
        for _ in range(80)
        for key, limit in limits.items()
    ]
    free = [work(task_id) for _ in range(100)]
    await enqueue(db, *items, *free)
    key_of = {item.id: item.lane.concurrency_key for item in (*items, *free)}
    running: Counter[str | None] = Counter()
    most: Counter[str | None] = Counter()
    left = len(key_of)

    async def take(tx: Tx, worker_id: UUID) -> None:
        nonlocal left
        while left:
            found = await queue.lease(tx, worker_id=worker_id, limit=4, lease_for=LEASE)
            for held in found.leases:
                running[key_of[held.id]] += 1
            most.update({k: running[k] - most[k] for k in running if running[k] > most[k]})
            await asyncio.sleep(0)  # others lease while these are running
            for held in found.leases:
                # Counted out before the row is gone: the count here is never too small a bound.
                running[key_of[held.id]] -= 1
            await queue.settle(tx, [ended(held) for held in found.leases], worker_id=worker_id)
            left -= len(found.leases)

    await asyncio.wait_for(racing(db, take), 60)
    assert all(0 < most[key] <= limit for key, limit in limits.items()), most
    assert await rows(db, "SELECT count(*) FROM task_run") == [(len(key_of),)]


@pytest.mark.parametrize("most", [3, 40])  # fewer than one lease takes, and more
async def test_the_database_never_sees_more_runs_of_a_key_than_allowed(
    db: Database, most: int
) -> None:
    task_id = await make_task(db)
    lane = Lane("k", most)
    await enqueue(db, *(work(task_id, lane=lane) for _ in range(40 * most)))
    seen: set[int] = set()
    over = asyncio.Event()

    async def take(tx: Tx, worker_id: UUID) -> None:
        while not over.is_set():
            found = await queue.lease(tx, worker_id=worker_id, limit=10, lease_for=LEASE)
            await queue.settle(tx, [ended(held) for held in found.leases], worker_id=worker_id)
            if not found.leases and not found.keyed:
                over.set()

    async def watch() -> None:
        query = "SELECT count(*) FROM due_work WHERE state = 'leased'"
        while not over.is_set():
            [(count,)] = await rows(db, query)
            seen.add(count)

    await asyncio.wait_for(asyncio.gather(racing(db, take), watch()), 60)
    assert max(seen) <= most
    assert max(seen) > 0


async def test_a_lease_that_has_not_committed_counts_for_its_concurrency_key(db: Database) -> None:
    task_id = await make_task(db)
    keyed = [work(task_id, concurrency_key="k", max_concurrency=1) for _ in range(2)]
    free = [work(task_id) for _ in range(2)]
    await enqueue(db, *keyed, *free)
    first, second = [await database.connect(db.url, pooled=db.pooled) for _ in range(2)]
    try:
        async with first.transaction():
            one = await queue.lease(first, worker_id=UUID(int=1), limit=1, lease_for=LEASE)
            two = await queue.lease(second, worker_id=UUID(int=2), limit=9, lease_for=LEASE)
            assert [held.id for held in one.leases] == [keyed[0].id]
            # The first also locks as much other work as it might have taken instead.
            assert [held.id for held in two.leases] == [free[1].id]
            assert two.keyed  # so that the second worker looks again
        two = await queue.lease(second, worker_id=UUID(int=2), limit=9, lease_for=LEASE)
        assert [held.id for held in two.leases] == [free[0].id]
    finally:
        await first.close()
        await second.close()


async def test_urgent_runs_come_first_under_racing_workers(db: Database) -> None:
    task_id = await make_task(db)
    items = [work(task_id, priority=number % 9 + 1) for number in range(900)]
    await enqueue(db, *items)
    priority_of = {item.id: item.priority for item in items}
    taken: list[list[Lease]] = []

    async def take(tx: Tx, worker_id: UUID) -> None:
        while True:
            found = await queue.lease(
                tx, worker_id=worker_id, limit=10, lease_for=LEASE, keyed=False
            )
            if not found.leases:
                return
            taken.append(found.leases)

    await racing(db, take)
    places: dict[int, list[int]] = defaultdict(list)
    for place, held in enumerate(held for batch in taken for held in batch):
        places[priority_of[held.id]].append(place)
    # One batch may be heard of late, so not the order of all but the middle of each is compared.
    middles = [statistics.median(places[priority]) for priority in range(9, 0, -1)]
    assert middles == sorted(middles)
    assert sum(len(found) for found in places.values()) == 900


async def test_an_occurrence_is_enqueued_once_by_racing_schedulers(db: Database) -> None:
    task_id = await make_task(db)
    instants = [work(task_id).run_at + timedelta(seconds=i) for i in range(100)]
    made: list[UUID] = []

    async def schedule(tx: Tx, _: UUID) -> None:
        items = [work(task_id, scheduled_for=at, run_at=at) for at in instants]
        made.extend(await queue.enqueue(tx, items))

    await racing(db, schedule)
    assert len(made) == len(instants)
    assert await rows(db, "SELECT count(*) FROM due_work") == [(100,)]
    assert await rows(db, "SELECT count(*) FROM fact") == [(100,)]


async def test_a_cancel_and_a_settlement_end_a_run_once(db: Database) -> None:
    task_id = await make_task(db)
    await enqueue(db, *(work(task_id) for _ in range(200)))

    async def take(tx: Tx, worker_id: UUID) -> None:
        while True:
            found = await queue.lease(tx, worker_id=worker_id, limit=5, lease_for=LEASE)
            if not found.leases:
                return
            await queue.settle(tx, [ended(held) for held in found.leases], worker_id=worker_id)

    async def cancel() -> None:
        async with db.connection() as tx:
            for (run_id,) in await rows(tx, "SELECT id FROM due_work ORDER BY id DESC"):
                await queue.cancel(tx, run_ids=[run_id])

    await asyncio.gather(racing(db, take), cancel())
    [(ends, runs)] = await rows(
        db,
        "SELECT count(*), count(DISTINCT run_id) FROM fact "
        "WHERE topic IN ('run.succeeded', 'run.canceled')",
    )
    assert (ends, runs) == (200, 200)
    assert await rows(db, "SELECT count(*) FROM task_run") == [(200,)]


async def test_a_renewal_does_not_wait_for_a_settlement(db: Database) -> None:
    """They would lock the same rows in different orders and wait for each other."""
    task_id = await make_task(db)
    await enqueue(db, work(task_id), work(task_id))
    me = UUID(int=1)
    async with db.connection() as tx:
        leases = (await queue.lease(tx, worker_id=me, limit=2, lease_for=LEASE)).leases
    over, running = leases
    longer = timedelta(hours=1)
    async with db.transaction() as settling, asyncio.timeout(20):
        assert await queue.settle(settling, [ended(over)], worker_id=me) == set()
        async with db.connection() as tx:
            renewed = await queue.renew(tx, leases, worker_id=me, lease_for=longer)
    assert renewed == {over.id: False, running.id: False}
    left = await rows(db, "SELECT id FROM due_work WHERE locked_until > now() + interval '30 min'")
    assert left == [(running.id,)]
