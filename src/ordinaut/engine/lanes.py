"""Lanes: what the runs of a task share with others, and how many may be under way.

A lane has a concurrency key, room for so many runs at a time, and at most so many starts in a
span of time. The lease decides by them (``store/queue.py``).
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from ordinaut.errors import InvalidInput
from ordinaut.model import NO_LANE, Lane, Overlap, Rate

MOST: Final = 10_000  # runs at a time, and starts in a span
SPANS: Final = {"s": 1, "min": 60, "hour": 3_600, "day": 86_400}  # seconds

RATE: Final = r"([1-9][0-9]{0,4})/(s|min|hour|day)"  # of which 10,000 is the most


def parse_rate(text: str) -> Rate:
    """Read ``10/min``: at most so many starts in any span of that length.

    Raises :class:`InvalidInput` when it is none, or more than 10,000.
    """
    found = re.fullmatch(RATE, text, re.ASCII)
    if found is None or int(found[1]) > MOST:
        raise InvalidInput(
            f"{text[:40]!r} is no rate; write 1 to {MOST}, a slash and one of "
            f"{', '.join(SPANS)}, as in '10/min'"
        )
    return Rate(int(found[1]), SPANS[found[2]])


def lane(task_id: UUID, *, key: str | None, most: int, rate: str | None, overlap: Overlap) -> Lane:
    """Return the lane of a task's runs.

    ``overlap: queue`` is room for one, in a lane of the task's own unless it names a key; a
    rate without a key bounds the starts of this task alone.
    """
    parsed = None if rate is None else parse_rate(rate)
    if overlap == "queue":
        return Lane(key or f"task:{task_id}", 1, parsed)
    if key is not None:
        return Lane(key, most, parsed)
    return NO_LANE if parsed is None else Lane(f"task:{task_id}", MOST, parsed)
