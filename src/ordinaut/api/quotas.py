"""How much an agent may have: tasks, bytes of a payload, runs an hour. Administrators may more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ordinaut.api import json
from ordinaut.api.dependencies import Work
from ordinaut.errors import TooLarge, TooManyRequests
from ordinaut.model import Json
from ordinaut.store import tasks as store
from ordinaut.store.database import Tx

RETRY_AFTER: Final = 60  # seconds; when room will be made is for the agent to say


async def tasks(tx: Tx, work: Work, *, adding: int) -> None:
    """Raise :class:`TooManyRequests` when an agent would have more tasks than it may.

    Requests that run at the same time do not see each other: together they may go over it.
    """
    quota = work.parts.settings.quota_tasks
    if not quota or work.agent.may("admin"):
        return
    if await store.count(tx, work.agent.id, limit=quota) + adding > quota:
        raise TooManyRequests(
            f"an agent may have {quota} tasks; delete some", retry_after=RETRY_AFTER
        )


def payloads(work: Work, given: Iterable[Json]) -> None:
    """Raise :class:`TooLarge` for a payload that is larger than it may be."""
    quota = work.parts.settings.quota_payload_bytes
    if not quota or work.agent.may("admin"):
        return
    for payload in given:
        if (size := len(json.dumps(payload))) > quota:
            raise TooLarge(f"a payload may have {quota} bytes, not {size}")


async def runs(work: Work, *, adding: int) -> None:
    """Count runs that an agent starts by request, and refuse those that are too many."""
    if adding and not work.agent.may("admin"):
        await work.parts.limits.runs(work.agent.id, adding)
