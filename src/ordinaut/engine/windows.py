"""Windows of events: when several events start one run, and when it starts.

::

    debounce   one run when it has been quiet for a while, at the latest max_wait after the first
    batch      one run for what came within a time, or for so many events, whichever is first

Pure: what stands here knows instants and events, and nothing of where they are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import orjson

from ordinaut.engine.template import Condition, parse_condition
from ordinaut.errors import InvalidInput, OrdinautError
from ordinaut.model import Json

MAX_EVENTS: Final = 1_000  # that a window holds
MAX_BYTES: Final = 256 * 1024  # of JSON, of all of them together
MAX_KEY: Final = 200  # characters
MAX_WAIT: Final = 10  # times the quiet time, unless the task says how long
BATCH: Final = 100  # events, unless the task says how many


@dataclass(frozen=True, slots=True)
class EventWindow:
    """Which events start a run together.

    ``quiet`` is None for a batch, which ``longest`` ends, and ``max_events`` before that.
    """

    quiet: timedelta | None
    longest: timedelta
    max_events: int
    by: Condition | None = None

    @property
    def overflows(self) -> bool:
        """Whether a full window stays open; what comes then is counted and not kept."""
        return self.quiet is not None

    def closes_at(self, opened_at: datetime, last_at: datetime) -> datetime:
        """Return when a window ends unless something comes before."""
        latest = opened_at + self.longest
        return latest if self.quiet is None else min(latest, last_at + self.quiet)

    def key(self, event: Mapping[str, Json], *, at: datetime) -> str:
        """Return which of the task's windows an event belongs to.

        Strings are keys as they are, other values as JSON; nothing, and what can not be asked
        of the event, is the empty key. A key that is too long is told apart by its hash.
        """
        if self.by is None:
            return ""
        try:
            found = self.by.value(event, now=at)
            text = found if isinstance(found, str) else orjson.dumps(found).decode()
        except (OrdinautError, TypeError):
            return ""
        text = "" if found is None else text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        if len(text) <= MAX_KEY:
            return text
        return text[: MAX_KEY - 65] + "~" + sha256(text.encode("utf-8", "replace")).hexdigest()


def parse_window(given: Mapping[str, Any]) -> EventWindow:
    """Read the ``event_window`` of a task; raise :class:`InvalidInput` that names the field."""
    return _parse(orjson.dumps(given, option=orjson.OPT_SORT_KEYS))


@lru_cache(maxsize=1_024)
def _parse(text: bytes) -> EventWindow:
    given: dict[str, Any] = {k: v for k, v in orjson.loads(text).items() if v is not None}
    quiet, batch = given.get("debounce_seconds"), given.get("batch_seconds")
    if (quiet is None) == (batch is None):
        raise _refused("", "give either debounce_seconds or batch_seconds")
    by = None
    if "by" in given:
        try:
            by = parse_condition(given["by"], path="event_window.by")
        except InvalidInput as error:
            raise _refused("by", error.message) from None
    if quiet is None:
        if "max_wait_seconds" in given:
            raise _refused("max_wait_seconds", "a batch ends after batch_seconds")
        most = given.get("max_events", BATCH)
        return EventWindow(None, timedelta(seconds=batch or 0), most, by)
    if "max_events" in given:
        raise _refused("max_events", "only a batch ends with so many events; use batch_seconds")
    longest = given.get("max_wait_seconds", MAX_WAIT * quiet)
    if longest < quiet:
        raise _refused("max_wait_seconds", f"must be at least debounce_seconds, {quiet:g}")
    return EventWindow(timedelta(seconds=quiet), timedelta(seconds=longest), MAX_EVENTS, by)


def _refused(field: str, message: str) -> InvalidInput:
    return InvalidInput.at(f"event_window.{field}" if field else "event_window", message)
