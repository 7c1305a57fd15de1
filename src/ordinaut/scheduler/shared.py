"""What many schedules have in common, so that it is computed once.

Ten thousand tasks that say "every day at nine" differ only in their anchor, the instant at
which each was created, and for most schedules the anchor decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from ordinaut.engine.calendar import Calendar
from ordinaut.engine.localtime import EPOCH
from ordinaut.engine.schedule import CompiledSchedule, compile_schedule, interval_after
from ordinaut.model import Schedule

# These count from the start of the recurrence.
_COUNTED = re.compile(r"COUNT=|INTERVAL=(?!1(;|$))", re.IGNORECASE)
# One rule by the clock on the wall, that says itself on which days it fires.
_OWN_DAYS = re.compile(
    r"(?=.*FREQ=(DAILY|((WEEKLY|MONTHLY|YEARLY)\b.*(BYDAY=|BYMONTHDAY=|BYYEARDAY=)))).*",
    re.IGNORECASE,
)


def shared_form(schedule: Schedule) -> Schedule:
    """Return a schedule that has the same occurrences after the anchor, and more often an equal."""
    return schedule if _is_anchored(schedule) else schedule._replace(anchor=EPOCH)


def _is_anchored(schedule: Schedule) -> bool:
    match schedule.kind:
        case "cron":
            return False
        case "rrule" if schedule.starts_at is None:
            return not _says_when(schedule.expr)
    return True


@lru_cache(maxsize=4_096)
def _says_when(rule: str) -> bool:
    """Tell whether a rule fires at the same times whenever it began."""
    return not _COUNTED.search(rule) and _OWN_DAYS.fullmatch(rule.strip()) is not None


class Memory:
    """Answers that were computed before, for one tick: many tasks are due at one instant."""

    def __init__(self, calendars: Mapping[str, Calendar]) -> None:
        """``calendars`` holds those that the schedules exclude."""
        self._calendars = calendars
        self._known: dict[tuple[object, ...], datetime | None] = {}

    def compiled(self, schedule: Schedule) -> CompiledSchedule:
        """Understand a schedule; InvalidSchedule as of :func:`compile_schedule`."""
        return compile_schedule(shared_form(schedule), calendars=self._calendars)

    def next(self, schedule: Schedule, after: datetime) -> datetime | None:
        """Return the first occurrence after ``after``, which is not before the anchor."""
        if schedule.kind == "interval" and not schedule.exclude:
            return interval_after(schedule, after)
        kind, expr, zone, anchor, *others = schedule
        key = (kind, expr, zone, _is_anchored(schedule) and anchor, after, *others)
        if key not in self._known:
            occurrence = self.compiled(schedule).next(after)
            self._known[key] = None if occurrence is None else occurrence.at
        return self._known[key]
