"""The cluster's housekeeping: what the leader does, and that nothing makes it stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from ordinaut.clock import SystemClock, TravelClock
from ordinaut.config import Settings
from ordinaut.errors import Conflict
from ordinaut.model import Event, uuid7
from ordinaut.scheduler import janitor
from ordinaut.scheduler.janitor import HOLDING, Holding
from ordinaut.scheduler.leader import LEASE, Leadership
from ordinaut.scheduler.metronome import Housekeeping, Metronome
from ordinaut.scheduler.triggers import Triggers
from ordinaut.scheduler.webhooks import Webhooks
from ordinaut.store import journal, leaders, ledger, queue, schedules, workers
from ordinaut.store.database import Database
from ordinaut.store.ledger import Skipped
from ordinaut.store.workers import State
from queueing import NOW, ended, enqueue, lease, make_task, settle, step, work
from ticking import START, add_task, after, enqueued, rows, state, tick_until

SETTINGS = {"redis_url": "redis://127.0.0.1:1", "secret": "s" * 40}


async def lead(db: Database, *, clock: TravelClock | None = None, **settings: int) -> Holding:
    """Become the leader, as far as this test's context goes."""
    async with db.connection() as tx:
        epoch = await leaders.seize(tx, "housekeeping", holder=uuid7(), lease=timedelta(minutes=10))
    assert epoch is not None
    configured = Settings(database_url=db.url, **SETTINGS, **settings)
    holding = Holding(db, configured, clock or TravelClock(datetime.now(UTC)), epoch)
    HOLDING.set(holding)
    return holding


async def test_an_expired_lease_goes_back_to_the_queue(db: Database):
    await lead(db)
    task = await make_task(db)
    async with db.transaction() as tx:
        await queue.enqueue(tx, [work(task)])
        [lease] = (
            await queue.lease(tx, worker_id=UUID(int=1), limit=1, lease_for=timedelta(seconds=-1))
        ).leases

    await janitor.expire_leases()

    assert await rows(db, "SELECT id, state FROM due_work") == [(lease.id, "ready")]


async def report(db: Database, worker_id: UUID, state: State = "running") -> None:
    async with db.connection() as tx:
        await workers.report(
            tx, worker_id, host="here", pid=7, version="1", state=state, details={}
        )


async def said_of(db: Database, worker_id: UUID) -> list[str]:
    query = "SELECT topic FROM fact WHERE data ->> 'id' = %s ORDER BY seq"
    return [topic for (topic,) in await rows(db, query, str(worker_id))]


async def test_a_process_that_ended_without_a_word_is_said_to_be_lost_once(db: Database):
    await lead(db)
    one, alive, ended = UUID(int=1), UUID(int=2), UUID(int=3)
    for worker_id in (one, alive, ended):
        await report(db, worker_id)
    await report(db, ended, "stopped")
    async with db.connection() as tx:
        await tx.execute(
            "UPDATE worker SET heartbeat_at = now() - interval '61 s' WHERE id <> %s", (alive,)
        )

    for _ in range(2):
        await janitor.find_lost_workers()

    assert await said_of(db, one) == ["worker.started", "worker.lost"]
    assert await said_of(db, alive) == ["worker.started"]
    assert await said_of(db, ended) == ["worker.started", "worker.stopped"]
    await report(db, one)
    await janitor.find_lost_workers()
    assert await said_of(db, one) == ["worker.started", "worker.lost", "worker.started"]


async def test_a_leader_that_was_followed_does_nothing_any_more(db: Database):
    await lead(db)
    async with db.connection() as tx:
        await tx.execute("UPDATE leader SET epoch = epoch + 1 WHERE name = 'housekeeping'")

    with pytest.raises(Conflict, match="epoch 1 has ended"):
        await janitor.expire_leases()


async def test_partitions_are_prepared_for_the_days_ahead(db: Database):
    holding = await lead(db)
    await janitor.prepare_partitions()
    await janitor.prepare_partitions()

    last = holding.clock.now().date() + timedelta(days=janitor.DAYS_AHEAD - 1)
    for table in ("event", "task_run", "step_run"):
        assert await exists(db, f"{table}_{last:%Y%m%d}")


async def test_a_day_that_began_without_its_partition_does_not_block_the_next(db: Database):
    clock = TravelClock(datetime.now(UTC) + timedelta(days=30))
    await lead(db, clock=clock)
    async with db.connection() as tx:
        await journal.emit(tx, [Event("test.early", {})], now=clock.now())

    await janitor.prepare_partitions()

    today = clock.now().date()
    assert not await exists(db, f"event_{today:%Y%m%d}")
    assert await exists(db, f"event_{today + timedelta(days=1):%Y%m%d}")


async def test_days_beyond_the_retention_are_dropped(db: Database):
    clock = TravelClock(datetime.now(UTC) + timedelta(days=40))
    await lead(db, clock=clock, retention_days=39, event_retention_days=39)
    today = datetime.now(UTC).date()

    await janitor.drop_history()

    assert not await exists(db, f"task_run_{today - timedelta(days=1):%Y%m%d}")
    assert await exists(db, f"task_run_{today + timedelta(days=1):%Y%m%d}")
    assert not await exists(db, f"event_{today - timedelta(days=1):%Y%m%d}")


async def test_a_task_may_keep_its_runs_for_a_shorter_time(db: Database):
    clock = TravelClock(datetime.now(UTC) + timedelta(days=8))
    await lead(db, clock=clock)
    brief = await make_task(db, retention_days=7)
    longer, plain = await make_task(db, retention_days=9), await make_task(db)
    ran = {}
    for task in (brief, longer, plain):
        items = [work(task) for _ in range(3)]
        await enqueue(db, *items)
        await settle(db, *(ended(held, steps=[step()]) for held in await lease(db)))
        ran[task] = {item.id for item in items}
        async with db.transaction() as tx:
            await ledger.record(tx, [Skipped(task, NOW, "missed", "test")], now=NOW)
    await enqueue(db, work(brief))  # it has not ended

    await janitor.drop_history()

    left = ran[longer] | ran[plain]
    assert {row[0] for row in await rows(db, "SELECT id FROM task_run")} == left
    assert {row[0] for row in await rows(db, "SELECT run_id FROM step_run")} == left
    kept = {row[0] for row in await rows(db, "SELECT task_id FROM occurrence")}
    assert kept == {longer, plain}
    assert await rows(db, "SELECT task_id FROM due_work") == [(brief,)]


async def test_the_runs_of_a_brief_task_go_in_steps(db: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(janitor, "BATCH", 2)
    await lead(db, clock=TravelClock(datetime.now(UTC) + timedelta(days=8)))
    task = await make_task(db, retention_days=7)
    await enqueue(db, *(work(task) for _ in range(5)))
    await settle(db, *map(ended, await lease(db)))

    await janitor.drop_history()

    assert await rows(db, "SELECT id FROM task_run") == []


async def relay(db: Database) -> None:
    """Move the place of the relay, as if Redis had taken what is in the outbox."""
    async with db.transaction() as tx:
        cursor = await journal.lock_cursor(tx, "relay")
        assert cursor is not None
        _, behind = await journal.read_fresh(tx, cursor, limit=10)
        await journal.save_cursor(tx, "relay", behind)


@pytest.mark.parametrize("partitioned", [True, False])
@pytest.mark.parametrize("last", ["relay", "triggers", "webhooks"])
async def test_events_are_kept_until_all_who_read_the_outbox_have_read_them(
    db: Database, last: str, partitioned: bool
):
    """Nothing listens, no webhook exists and no run waits, and yet the places move on."""
    clock = TravelClock(datetime.now(UTC) + timedelta(days=40))
    await lead(db, clock=clock, event_retention_days=1)
    at = None if partitioned else datetime(2020, 1, 1, tzinfo=UTC)
    async with db.connection() as tx:
        await journal.emit(tx, [Event("test.waiting", {})], now=at)
    table = "SELECT tableoid::regclass::text = 'event_default' FROM event"
    assert await rows(db, table) == [(not partitioned,)]
    readers: dict[str, Callable[[], Awaitable[object]]] = {
        "relay": lambda: relay(db),
        "triggers": Triggers(db).run_once,
        "webhooks": Webhooks(db).run_once,
    }

    for name in readers.keys() - {last}:
        await readers[name]()
    await janitor.drop_history()
    assert await rows(db, "SELECT count(*) FROM fact") == [(1,)]

    await readers[last]()
    await janitor.drop_history()
    assert await rows(db, "SELECT count(*) FROM fact") == [(0,)]


async def test_rows_that_nobody_needs_are_swept(db: Database):
    clock = TravelClock(datetime.now(UTC) + timedelta(days=100))
    await lead(db, clock=clock)
    task = await add_task(db, "interval", "PT1M", starts_at=START, overlap="skip")
    await tick_until(db, after(minutes=3))
    async with db.connection() as tx:
        await tx.execute("INSERT INTO downtime VALUES (%s, %s)", (START, after(minutes=1)))
    assert len(await rows(db, "SELECT * FROM occurrence")) == 2

    await janitor.drop_history()

    assert await rows(db, "SELECT * FROM occurrence") == []
    assert await rows(db, "SELECT * FROM downtime") == []
    assert await enqueued(db, task) == [after(minutes=1)]


async def test_old_deliveries_and_replaced_secrets_of_webhooks_go(db: Database):
    holding = await lead(db, webhook_retention_days=3)
    now = holding.clock.now()
    hook, agent = uuid7(), uuid7()
    kept = {"pending": [0, 30], "delivered": [2, 4], "dead": [2, 4]}
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO agent (id, name) VALUES (%s, 'a')", (agent,))
        await tx.execute(
            "INSERT INTO webhook (id, url, topics, created_by) VALUES (%s, 'x', '{a}', %s)",
            (hook, agent),
        )
        for ends in (None, now - timedelta(seconds=1), now + timedelta(hours=1)):
            await tx.execute(
                "INSERT INTO webhook_secret (id, webhook_id, ciphertext, key_id, expires_at)"
                " VALUES (%s, %s, '', '', %s)",
                (uuid7(), hook, ends),
            )
        for status, ages in kept.items():
            for age in ages:
                then = now - timedelta(days=age)
                await tx.execute(
                    "INSERT INTO webhook_delivery (id, webhook_id, topic, body, status,"
                    " next_attempt_at, created_at, finished_at)"
                    " VALUES (%s, %s, %s, '', %s, %s, %s, %s)",
                    (uuid7(), hook, f"{age}", status, then, then,
                     None if status == "pending" else then),
                )  # fmt: skip

    await janitor.drop_history()

    left = await rows(db, "SELECT status, topic FROM webhook_delivery ORDER BY id")
    assert left == [("pending", "0"), ("pending", "30"), ("delivered", "2"), ("dead", "2")]
    assert await rows(db, "SELECT count(*) FROM webhook_secret") == [(2,)]


async def test_new_time_zone_data_recomputes_and_reports_what_moved(db: Database):
    await lead(db)
    moved = await add_task(db, "cron", "0 12 * * *", timezone="Europe/Chisinau")
    same = await add_task(db, "cron", "0 12 * * *")
    wrong = after(hours=1)
    async with db.connection() as tx:
        await tx.execute("UPDATE schedule SET tzdata = '2020.1'")
        await tx.execute("UPDATE schedule SET next_run_at = %s WHERE task_id = %s", (wrong, moved))

    await janitor.recompute_schedules()
    await janitor.recompute_schedules()

    assert await state(db, moved) == ("active", after(hours=2))
    assert await state(db, same) == ("active", after(hours=4))
    async with db.connection() as tx:
        [event] = await journal.read_events(tx, limit=9, topic="task.drifted")
    assert event.event.task_id == moved
    assert event.event.data == {
        "old": wrong.isoformat(),
        "new": after(hours=2).isoformat(),
        "tzdata": schedules.tzdata_version(),
    }


async def test_many_schedules_are_recomputed_in_steps_and_those_in_use_next_time(
    db: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(janitor, "BATCH", 2)
    await lead(db)
    tasks = [await add_task(db, "cron", "0 12 * * *") for _ in range(5)]
    stale = "SELECT task_id FROM schedule WHERE tzdata = '2020.1'"
    async with db.connection() as tx:
        await tx.execute("UPDATE schedule SET tzdata = '2020.1', next_run_at = %s", (START,))

    async with db.transaction() as tx:
        await tx.execute("SELECT FROM schedule WHERE task_id = %s FOR UPDATE", (tasks[1],))
        async with db.transaction() as other:
            assert await schedules.stale(other, limit=2) == [tasks[0], tasks[2]]
            assert await schedules.stale(other, after=tasks[2], limit=9) == tasks[3:]
        await janitor.recompute_schedules()
        assert await rows(db, stale) == [(tasks[1],)]
    await janitor.recompute_schedules()

    assert await rows(db, stale) == []
    assert {await state(db, task) for task in tasks} == {("active", after(hours=4))}


async def test_a_duty_has_one_holder_and_goes_to_another_when_it_is_given_back(db: Database):
    clock = TravelClock(START)
    first, second = (Leadership(db, clock, "relay", holder=uuid7()) for _ in range(2))
    assert await first.renew() == 1
    assert await second.renew() is None

    await first.resign()
    clock.move(LEASE)
    assert await second.renew() == 2
    assert first.epoch is None


async def test_a_holder_that_could_not_renew_does_not_believe_in_its_lease(db: Database):
    clock = TravelClock(START)
    leader = Leadership(db, clock, "relay", holder=uuid7())
    assert await leader.renew() == 1

    clock.move(LEASE)
    assert leader.epoch is None


calls: list[datetime] = []


async def counted() -> None:
    calls.append(HOLDING.get().clock.now())
    if len(calls) == 2:
        raise RuntimeError("a job that fails")


@asynccontextmanager
async def housekeeping(db: Database) -> AsyncIterator[Housekeeping]:
    calls.clear()
    await lead(db)
    house = Housekeeping(db.url, [(f"{__name__}:counted", timedelta(seconds=0.1))], copy_context())
    await house.start()
    try:
        yield house
    finally:
        await house.stop()


async def called(times: int) -> None:
    async with asyncio.timeout(15):
        while len(calls) < times:  # noqa: ASYNC110  another thread decides when
            await asyncio.sleep(0.02)


async def test_a_job_that_fails_is_done_again(db: Database):
    async with housekeeping(db):
        await called(5)


async def test_jobs_go_on_after_their_store_was_away(db: Database):
    async with housekeeping(db):
        await called(3)
        async with db.connection() as tx:
            await tx.execute("ALTER TABLE apscheduler_jobs RENAME TO away")
        await asyncio.sleep(0.5)  # not to synchronise: the length of the outage
        count = len(calls)
        async with db.connection() as tx:
            await tx.execute("ALTER TABLE away RENAME TO apscheduler_jobs")
            await tx.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE '%apscheduler_jobs%'"
                " AND pid <> pg_backend_pid()"
            )
        await called(count + 5)


async def test_jobs_that_this_version_does_not_know_are_dropped(db: Database):
    async with housekeeping(db):
        await called(1)
    house = Housekeeping(
        db.url, [("ordinaut.scheduler.janitor:expire_leases", LEASE)], copy_context()
    )
    await house.start()
    await house.stop()

    assert await rows(db, "SELECT id FROM apscheduler_jobs") == [
        ("ordinaut.scheduler.janitor:expire_leases",)
    ]


async def test_the_metronome_strikes_when_asked_and_at_worst_every_second():
    clock = SystemClock()
    async with Metronome(clock) as metronome:
        await metronome.wait()
        begun = clock.monotonic()
        metronome.strike_in(timedelta(seconds=0.2))
        await metronome.wait()
        assert 0.15 < clock.monotonic() - begun < 0.9
        begun = clock.monotonic()
        await metronome.wait()
        assert clock.monotonic() - begun < 1.5


async def test_the_metronome_goes_on_after_a_fault_of_its_own(monkeypatch: pytest.MonkeyPatch):
    async with Metronome(SystemClock()) as metronome:
        await metronome.wait()
        store = metronome._scheduler._jobstores["default"]
        real, failures = store.update_job, []

        def fail_once(job: object) -> None:
            if not failures:
                failures.append(job)
                raise RuntimeError("the job store is away")
            real(job)

        monkeypatch.setattr(store, "update_job", fail_once)
        async with asyncio.timeout(10):
            for _ in range(3):
                await metronome.wait()
        assert failures


async def exists(db: Database, table: str) -> bool:
    [(found,)] = await rows(db, "SELECT to_regclass(%s) IS NOT NULL", table)
    return bool(found)
