"""What a run says, as it says it: its lines, how far it has come, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final
from uuid import UUID

from ordinaut.api.dependencies import Work
from ordinaut.api.json import dumps
from ordinaut.api.schemas import written
from ordinaut.api.schemas.runs import LogQuery
from ordinaut.engine.tool import LEVELS
from ordinaut.errors import InvalidInput
from ordinaut.model import Json
from ordinaut.store import runlog, runs

PAUSE: Final = 0.5  # seconds between looks at a run
BATCH: Final = 200  # lines


def levels(least: str) -> Sequence[str]:
    """Return the levels that are shown when ``least`` is the least."""
    return LEVELS[LEVELS.index(least) :]


def place(last: str | None) -> int:
    """Return the place to go on behind; raises :class:`InvalidInput` for what no line had."""
    if last is None:
        return 0
    if not (last.isascii() and last.isdigit() and len(last) < 19):
        raise InvalidInput.at("Last-Event-ID", "send the id of the last line that came")
    return int(last)


async def follow(
    work: Work, run_id: UUID, query: LogQuery, *, after: int
) -> AsyncGenerator[dict[str, str]]:
    """Yield what sse-starlette sends, until the run has ended."""
    progress: Json = None
    while True:
        async with work.connection() as tx:
            # The run first: what it said before its end is there when the end is.
            run = await runs.get(tx, run_id)
            lines = await runlog.page(
                tx,
                run_id,
                limit=BATCH,
                levels=levels(query.level),
                after=after,
                step_id=query.step_id,
            )
        for line in lines:
            after = line.seq
            yield _sent("log", written.line(line), id=str(line.seq))
        if run.progress not in (None, progress):
            progress = run.progress
            yield _sent("progress", progress)
        if len(lines) == BATCH:
            continue
        if run.finished_at is not None:
            yield _sent("end", {"status": run.status})
            return
        await asyncio.sleep(PAUSE)


def _sent(event: str, data: Any, **more: str) -> dict[str, str]:
    return {"event": event, "data": dumps(data).decode(), **more}
