"""Runs: what happened, and stopping or repeating it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import Header, Query, Request, Response, status

from ordinaut.api import answers, decisions, following, streaming
from ordinaut.api.answers import answer
from ordinaut.api.dependencies import Anyone, RunsRead, RunsWrite
from ordinaut.api.paging import cursor_id, cursor_seq, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas import written
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.runs import (
    Decision,
    LineOut,
    LogQuery,
    RetryQuery,
    RunDetail,
    RunOut,
    RunQuery,
    StatsOut,
    StatsQuery,
)
from ordinaut.errors import Conflict
from ordinaut.store import audit, queue, runlog, runs
from ordinaut.store.runs import Filter

routes = router("/runs", "runs")

STATS_OVER: Final = timedelta(days=1)
EVENT_STREAM: Final = "text/event-stream"
ACCEPTED: Final = status.HTTP_202_ACCEPTED


@routes.get("", response_model=Page[RunOut])
async def find(query: Annotated[RunQuery, Query()], work: RunsRead) -> Response:
    """Return runs, newest first: those that are queued or running and those that ended."""
    wanted = Filter(work.owner, query.task_id, tuple(query.status), query.trigger)
    before = cursor_id(query.cursor)
    async with work.connection() as tx:
        found = await runs.page(tx, wanted, limit=query.limit + 1, before=before)
    page, following = paged(found, limit=query.limit, place=lambda run: run.id)
    return answers.page([written.run(run) for run in page], following)


@routes.get("/stats")
async def stats(query: Annotated[StatsQuery, Query()], work: RunsRead) -> StatsOut:
    """Count runs by status; durations and lateness are of those that ended since then."""
    since = query.since or work.now - STATS_OVER
    async with work.connection() as tx:
        found = await runs.stats(tx, since=since, owner=work.owner, task_id=query.task_id)
    return StatsOut(
        since=since, counts=found.counts, duration=found.duration, lateness=found.lateness
    )


@routes.get("/{run_id}", response_model=RunDetail)
async def get(run_id: UUID, work: RunsRead) -> Response:
    """Return a run with its steps."""
    async with work.connection() as tx:
        run = await runs.get(tx, run_id, owner=work.owner)
        steps = [written.step(step) for step in await runs.steps(tx, run_id)]
    return answer(written.run(run) | {"steps": steps})


@routes.get("/{run_id}/logs", response_model=Page[LineOut])
async def logs(
    run_id: UUID,
    query: Annotated[LogQuery, Query()],
    work: RunsRead,
    request: Request,
    accept: Annotated[str, Header()] = "",
    last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=50)] = None,
) -> Response:
    """Return what the tools of a run have written, oldest first.

    To ``Accept: text/event-stream`` the lines are sent as they come (SSE), until the run ends.
    """
    async with work.connection() as tx:
        await runs.get(tx, run_id, owner=work.owner)
        if EVENT_STREAM in accept:
            source = following.follow(work, run_id, query, after=following.place(last))
            return streaming.stream(request, work.agent, source)
        found = await runlog.page(
            tx,
            run_id,
            limit=query.limit + 1,
            levels=following.levels(query.level),
            after=cursor_seq(query.cursor) or 0,
            step_id=query.step_id,
        )
    page, more = paged(found, limit=query.limit, place=lambda line: line.seq)
    return answers.page([written.line(line) for line in page], more)


@routes.post("/{run_id}/cancel", status_code=ACCEPTED, response_model=RunOut)
async def cancel(run_id: UUID, work: RunsWrite) -> Response:
    """End a queued or waiting run at once, and ask the worker of a running one to stop."""
    async with work.transaction() as tx:
        run = await runs.get(tx, run_id, owner=work.owner)
        if run.finished_at is not None:
            raise Conflict(f"a run that is {run.status} can not be canceled")
        await queue.cancel(tx, run_ids=[run_id])
        await audit.record(tx, work.actor, action="run.cancel", entity="run", entity_id=run_id)
        return answer(written.run(await runs.get(tx, run_id)), ACCEPTED)


@routes.post("/{run_id}/retry", status_code=ACCEPTED, response_model=RunOut)
async def retry(run_id: UUID, query: Annotated[RetryQuery, Query()], work: RunsWrite) -> Response:
    """Queue a run that failed, was canceled or died once more, from its last checkpoint.

    With ``from_step`` it begins at that step, and all that comes after it is done again. A run
    that waits because a call may or may not have happened makes that call again.
    """
    async with work.transaction() as tx:
        run = await decisions.retry(tx, work, run_id, from_step=query.from_step)
        return answer(written.run(run), ACCEPTED)


@routes.post("/{run_id}/approve", response_model=RunOut)
async def approve(run_id: UUID, work: Anyone, body: Decision | None = None) -> Response:
    """Approve what a waiting run asks; it goes on, and the step has the approval as output."""
    async with work.transaction() as tx:
        decided = body or Decision()
        return answer(
            written.run(await decisions.decide(tx, work, run_id, body=decided, approved=True))
        )


@routes.post("/{run_id}/reject", response_model=RunOut)
async def reject(run_id: UUID, work: Anyone, body: Decision | None = None) -> Response:
    """Reject what a waiting run asks; its step fails with ``wait_refused``."""
    async with work.transaction() as tx:
        decided = body or Decision()
        return answer(
            written.run(await decisions.decide(tx, work, run_id, body=decided, approved=False))
        )
