"""Event tasks that start each other, with a real scheduler and a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from ordinaut.model import Event, Json
from ordinaut.store import journal, schedules
from ordinaut.store.database import Database
from ordinaut.store.triggers import MAX_DEPTH
from queueing import make_task, rows
from ticking import scheduler
from working import process, until

pytestmark = pytest.mark.chaos


def answering(topic: str) -> Json:
    """A pipeline that publishes a topic and what it heard."""
    arguments = {"topic": topic, "payload": {"heard": "${event.topic}"}}
    return {"pipeline": [{"uses": "event.publish", "with": arguments}]}


async def test_two_event_tasks_that_start_each_other_stop_and_the_ledger_says_why(
    db: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    ping = await make_task(db, schedule_expr="game.ping", payload=answering("game.pong"))
    pong = await make_task(db, schedule_expr="game.pong", payload=answering("game.ping"))
    async with db.transaction() as tx:
        await schedules.set_next(tx, {ping: None, pong: None})

    with (
        scheduler(database_url, redis_url, tmp_path / "scheduler.log"),
        process(database_url, tmp_path / "worker.log"),
    ):
        async with db.transaction() as tx:
            await journal.emit(tx, [Event("game.ping", {})])
            await journal.hint(tx)

        async def stopped() -> bool:
            return bool(await rows(db, "SELECT FROM occurrence"))

        await until(stopped, what="a verdict ended the circle", within=60)

    runs = await rows(
        db,
        "SELECT task_id, (payload #>> '{event,depth}')::int, status FROM task_run ORDER BY 2",
    )
    turns = [(ping, pong)[depth % 2] for depth in range(MAX_DEPTH + 1)]
    assert runs == [(task, depth, "succeeded") for depth, task in enumerate(turns)]
    assert await rows(db, "SELECT count(*) FROM due_work") == [(0,)]
    [(task, verdict, reason)] = await rows(db, "SELECT task_id, verdict, reason FROM occurrence")
    assert (task, verdict) == (pong, "canceled")
    assert "16 runs that started each other; do the tasks form a circle?" in reason
    [(said,)] = await rows(db, "SELECT data ->> 'reason' FROM fact WHERE topic = 'task.skipped'")
    assert said == reason
