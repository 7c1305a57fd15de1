"""What has been checked before need not be checked again.

Tasks come in families: the same pipeline with other parameters, the same schedule many times
over. Remembering the last few makes a batch several times faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from ordinaut.engine.calendar import Calendar
from ordinaut.engine.pipeline import parse_pipeline
from ordinaut.engine.registry import ToolRegistry
from ordinaut.engine.schedule import compile_schedule
from ordinaut.engine.tool import Tool
from ordinaut.model import Json, Schedule

REMEMBERED: Final = 1024
ANCHORED: Final = ("rrule", "interval")  # the kinds whose occurrences depend on the anchor


class PipelineCheck:
    """Checks payloads against the tools of this process."""

    def __init__(self, tools: ToolRegistry) -> None:
        self._tools = tools
        self._good: dict[bytes, tuple[dict[str, Tool | None], Mapping[str, str]]] = {}

    def __call__(self, payload: Json) -> Mapping[str, str]:
        """Return the secrets that ``payload`` names, each with its place.

        Raises :class:`InvalidPipeline` with every problem.
        """
        key = self._key(payload)
        if key is not None and (secrets := self._known(key)) is not None:
            return secrets
        pipeline = parse_pipeline(payload, registry=self._tools)
        if key is not None:
            if len(self._good) >= REMEMBERED:
                self._good.clear()
            names = {step.uses for step in pipeline.calls() if step.uses}
            used = {name: self._tools.find(name) for name in names}
            self._good[key] = (used, pipeline.secrets)
        return pipeline.secrets

    def _known(self, key: bytes) -> Mapping[str, str] | None:
        used, secrets = self._good.get(key, (None, {}))
        if used is None:
            return None
        # A tool may have gone or changed since.
        same = all(self._tools.find(name) is tool for name, tool in used.items())
        return secrets if same else None

    def _key(self, payload: Json) -> bytes | None:
        # Of the parameters only the type matters for whether a pipeline can be used.
        if not isinstance(payload.get("params", {}), dict):
            return None
        return orjson.dumps({name: part for name, part in payload.items() if name != "params"})


class NextOccurrences:
    """Finds the next occurrence of schedules; what was found holds until it comes."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], tuple[datetime, datetime | None]] = {}

    def __call__(
        self, schedule: Schedule, *, calendars: Mapping[str, Calendar], after: datetime
    ) -> datetime | None:
        """Return the first occurrence of ``schedule`` strictly after ``after``.

        Raises :class:`InvalidSchedule` for one that can not be understood.
        """
        if schedule.exclude:
            return _following(schedule, calendars, after)
        key = _key(schedule)
        since, following = self._found.get(key, (after, after))
        if since <= after and (following is None or after < following):
            return following
        following = _following(schedule, {}, after)
        if len(self._found) >= REMEMBERED:
            self._found.clear()
        self._found[key] = (after, following)
        return following


def _key(schedule: Schedule) -> tuple[Any, ...]:
    """Return what decides the occurrences of a schedule without calendars."""
    return (
        schedule.kind,
        schedule.expr,
        schedule.timezone,
        schedule.anchor if schedule.kind in ANCHORED else None,
        schedule.starts_at,
        schedule.ends_at,
        schedule.dst_gap,
        schedule.dst_fold,
    )


def _following(
    schedule: Schedule, calendars: Mapping[str, Calendar], after: datetime
) -> datetime | None:
    found = compile_schedule(schedule, calendars=calendars).next(after)
    return None if found is None else found.at
