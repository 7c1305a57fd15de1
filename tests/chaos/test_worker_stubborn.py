"""Tools that never end: they cost their run its life, and the worker nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from extending import extension, write
from ordinaut.store.database import Database
from queueing import enqueue, make_task, rows, work
from working import process, until, until_ended

pytestmark = pytest.mark.chaos

STUCK = """
    async def deaf():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
    def stuck():
        while True:
            time.sleep(60)
    def fine(): return "fine"
    for fn in (deaf, stuck, fine):
        tool_registry.register(fn.__name__, fn)
"""


async def test_tools_that_never_end_leave_room_for_others_and_for_the_end(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    write(tmp_path / "ext", "odd", extension("odd", wants="TOOLS", setup=STUCK), grants=["TOOLS"])
    never = [
        {"pipeline": [{"uses": f"ext.odd.{name}", "timeout_seconds": 0.2, "max_retries": 0}]}
        for name in ("deaf", "stuck")
    ]
    tasks = [await make_task(db, payload=payload) for payload in never]
    await enqueue(db, *(work(task_id) for task_id in tasks for _ in range(4)))
    options = {"ext_paths": tmp_path / "ext", "worker_concurrency": 2, "drain_seconds": 1}
    with process(database_url, tmp_path / "worker.log", **options) as worker:
        await until_ended(db, 8, within=60)
        ended = await rows(db, "SELECT status, error ->> 'code' FROM task_run")
        assert ended == [("failed", "step_timeout")] * 8

        # Twice as many threads are lost as there are slots.
        fine = work(await make_task(db, payload={"pipeline": [{"uses": "ext.odd.fine"}]}))
        await enqueue(db, fine)

        async def done() -> bool:
            return await rows(db, "SELECT status FROM task_run WHERE id = %s", fine.id) == [
                ("succeeded",)
            ]

        await until(done, what="a run beside tools that never end")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
