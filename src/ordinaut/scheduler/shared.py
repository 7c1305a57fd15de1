"""What many schedules have in common, so that it is computed once.

Ten thousand tasks that say "every day at nine" differ only in their anchor, the instant at
which each was created, and for most schedules the anchor decides nothing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ordinaut.engine.schedule import CompiledSchedule
from ordinaut.model import Schedule
from ordinaut.scheduler.catchup import Following

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# These count from the start of the recurrence.
_COUNTED = re.compile(r"COUNT=|INTERVAL=(?!1(;|$))", re.IGNORECASE)
# One rule by the clock on the wall, that says itself on which days it fires.
_OWN_DAYS = re.compile(
    r"(?=.*FREQ=(DAILY|((WEEKLY|MONTHLY|YEARLY)\b.*(BYDAY=|BYMONTHDAY=|BYYEARDAY=)))).*",
    re.IGNORECASE,
)


def shared_form(schedule: Schedule) -> Schedule:
    """Return a schedule that has the same occurrences after the anchor, and more often an equal."""
    if not _is_anchored(schedule):
        return Schedule(
            schedule.kind,
            schedule.expr,
            schedule.timezone,
            _EPOCH,
            schedule.starts_at,
            schedule.ends_at,
            schedule.dst_gap,
            schedule.dst_fold,
            schedule.exclude,
            schedule.on_excluded,
        )
    return schedule


def _is_anchored(schedule: Schedule) -> bool:
    match schedule.kind:
        case "cron":
            return False
        case "rrule" if schedule.starts_at is None:
            expr = schedule.expr
            return bool(_COUNTED.search(expr)) or not _OWN_DAYS.fullmatch(expr.strip())
    return True


class Memory:
    """Answers that were computed before, for one tick: many tasks are due at one instant."""

    def __init__(self) -> None:
        self._known: dict[tuple[CompiledSchedule, datetime], datetime | None] = {}

    def following(self, schedule: CompiledSchedule) -> Following:
        """Return ``schedule.next`` with a memory."""
        known = self._known

        def answer(after: datetime) -> datetime | None:
            key = (schedule, after)
            if key not in known:
                occurrence = schedule.next(after)
                known[key] = None if occurrence is None else occurrence.at
            return known[key]

        return answer
