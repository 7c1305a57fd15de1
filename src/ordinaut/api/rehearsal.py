"""A run that is tried out: every step rendered, nothing but pure tools called."""

from __future__ import annotations

import asyncio
from typing import Final

from ordinaut.api.dependencies import Work
from ordinaut.api.schemas.timeline import DryRun
from ordinaut.engine.dryrun import render_steps
from ordinaut.engine.outcome import RunInfo
from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.errors import TooLarge
from ordinaut.model import Json, Task, uuid7

LIMIT_SECONDS: Final = 10.0


async def rehearse(work: Work, task: Task, body: DryRun) -> Json:
    """Return what each step of ``task`` would do."""
    run = RunInfo(
        run_id=uuid7(),
        task_id=task.id,
        max_retries=task.max_retries,
        trigger="run_now",
        agent_id=task.created_by,
        task={"title": task.title},
    )
    tools = work.parts.tools
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            shown = await render_steps(
                parse_pipeline(task.payload, registry=tools),
                run=run,
                registry=tools,
                clock=work.parts.clock,
                event=body.event,
                probe=body.probe,
                condition=task.schedule.expr if task.schedule.kind == "condition" else None,
                params=body.params,
            )
    except TimeoutError:
        raise TooLarge(f"the dry run took more than {LIMIT_SECONDS:.0f} s") from None
    return shown.to_json()
