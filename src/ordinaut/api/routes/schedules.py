"""Schedules that are not stored: when would this fire, and what does it say?"""

from __future__ import annotations

from ordinaut.api import intake
from ordinaut.api.dependencies import Connection, Parts, TasksRead
from ordinaut.api.routing import router
from ordinaut.api.schemas.schedules import OccurrenceOut, Preview, PreviewOut
from ordinaut.engine import schedule as engine
from ordinaut.engine.schedule import Occurrence
from ordinaut.store import calendars

routes = router("/schedules", "schedules")


@routes.post("/preview")
async def preview(body: Preview, caller: TasksRead, tx: Connection, parts: Parts) -> PreviewOut:
    """Return the next occurrences of a schedule, strictly after ``after``."""
    after = body.after or parts.clock.now()
    wanted = intake.schedule(body, zone=parts.settings.timezone, anchor=body.starts_at or after)
    known = await calendars.named(tx, wanted.exclude)
    found, finished = engine.preview(wanted, after=after, count=body.count, calendars=known)
    return PreviewOut(occurrences=[_written(one) for one in found], finished=finished)


def _written(one: Occurrence) -> OccurrenceOut:
    return OccurrenceOut(at=one.at, local=one.local.isoformat(), note=one.note)
