"""Events as they come: from Redis Streams to one listener, as far as it may see them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final
from uuid import UUID

import orjson

from ordinaut import telemetry
from ordinaut.api.dependencies import Work
from ordinaut.api.json import dumps
from ordinaut.api.schemas.events import StreamQuery
from ordinaut.bus import EVENTS, MAX_BLOCK, entry_id
from ordinaut.errors import InvalidInput, Unavailable
from ordinaut.store import events
from ordinaut.store.journal import topic_pattern

BATCH: Final = 100
PAUSE: Final = 1.0  # seconds until Redis is tried again
NOW: Final = "$"

log = telemetry.logger(__name__)


def place(last: str | None) -> str:
    """Return where to go on; raises :class:`InvalidInput` for what no event was sent with."""
    if last is None:
        return NOW
    try:
        return entry_id(last)
    except ValueError:
        message = "send the id of the last event that came"
        raise InvalidInput.at("Last-Event-ID", message) from None


async def listen(work: Work, query: StreamQuery, *, after: str) -> AsyncGenerator[dict[str, str]]:
    """Yield what sse-starlette sends, for ever; a Redis that is away is waited for."""
    sieve = Sieve(work, query)
    bus = work.parts.bus
    while True:
        try:
            messages = await bus.tail(EVENTS, after=after, block=MAX_BLOCK, limit=BATCH)
        except Unavailable as error:
            log.warning("events.unavailable", error=str(error))
            await asyncio.sleep(PAUSE)
            continue
        for message in messages:
            after = message.id
            if await sieve.passes(message.fields):
                yield _sent(message.id, message.fields)


class Sieve:
    """Lets through what a listener asked for and may see."""

    def __init__(self, work: Work, query: StreamQuery) -> None:
        self._work = work
        self._topic = re.compile(topic_pattern(query.topic)) if query.topic else None
        self._wanted = {"taskid": query.task_id, "runid": query.run_id}
        self._owned: dict[str, bool] = {}

    async def passes(self, fields: Mapping[str, str]) -> bool:
        """Tell whether an event is for this listener."""
        topic = fields.get("type", "")
        if self._topic and not self._topic.match(topic):
            return False
        for name, wanted in self._wanted.items():
            if wanted is not None and fields.get(name) != str(wanted):
                return False
        return self._work.owner is None or await self._may_see(topic, fields)

    async def _may_see(self, topic: str, fields: Mapping[str, str]) -> bool:
        if topic.startswith("webhook."):
            data = orjson.loads(fields.get("data", "null"))
            return isinstance(data, dict) and data.get("agent_id") == str(self._work.owner)
        task_id = fields.get("taskid", "")
        if not task_id:
            return topic.split(".")[0] not in events.RESERVED
        if task_id not in self._owned:
            assert self._work.owner is not None
            async with self._work.connection() as tx:
                self._owned[task_id] = await events.owned(tx, UUID(task_id), owner=self._work.owner)
        return self._owned[task_id]


def _sent(place: str, fields: Mapping[str, str]) -> dict[str, str]:
    data: dict[str, Any] = {
        "id": fields["id"],
        "at": fields["time"],
        "topic": fields["type"],
        "subject": fields.get("subject", ""),
        "task_id": fields.get("taskid"),
        "run_id": fields.get("runid"),
        "payload": orjson.loads(fields["data"]) if fields.get("data") else None,
    }
    return {"id": place, "event": fields["type"], "data": dumps(data).decode()}
