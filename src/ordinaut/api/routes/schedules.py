"""Schedules that are not stored: when would this fire, and what does it say?"""

from __future__ import annotations

from ordinaut.api import intake
from ordinaut.api.dependencies import TasksRead
from ordinaut.api.routing import router
from ordinaut.api.schemas.schedules import (
    Explain,
    Explanation,
    OccurrenceOut,
    Preview,
    PreviewOut,
)
from ordinaut.engine import schedule as engine
from ordinaut.engine.explain import explain as in_words
from ordinaut.engine.schedule import Occurrence
from ordinaut.store import calendars

routes = router("/schedules", "schedules")


@routes.post("/preview")
async def preview(body: Preview, work: TasksRead) -> PreviewOut:
    """Return the next occurrences of a schedule, strictly after ``after``."""
    after = body.after or work.now
    zone = work.parts.settings.timezone
    wanted = intake.schedule(body, zone=zone, anchor=body.starts_at or after)
    async with work.connection() as tx:
        known = await calendars.named(tx, wanted.exclude)
    found, finished = engine.preview(wanted, after=after, count=body.count, calendars=known)
    return PreviewOut(occurrences=[_written(one) for one in found], finished=finished)


@routes.post("/explain")
async def explain(body: Explain, work: TasksRead) -> Explanation:
    """Say a schedule in plain words."""
    zone = work.parts.settings.timezone
    wanted = intake.schedule(body, zone=zone, anchor=body.starts_at or work.now)
    async with work.connection() as tx:
        known = await calendars.named(tx, wanted.exclude)
    engine.compile_schedule(wanted, calendars=known)
    return Explanation(text=in_words(wanted, lang=body.language))


def _written(one: Occurrence) -> OccurrenceOut:
    return OccurrenceOut(at=one.at, local=one.local.isoformat(), note=one.note)
