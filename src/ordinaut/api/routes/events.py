"""Events: state a fact, look back, listen."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import Header, Query, Request, Response, status
from sse_starlette import EventSourceResponse

from ordinaut import subscribers
from ordinaut.api import answers, listening, quotas, streaming
from ordinaut.api.answers import answer
from ordinaut.api.dependencies import EventsPublish, EventsRead, Work
from ordinaut.api.paging import cursor_seq, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.events import (
    CatalogueEntry,
    EventBatch,
    EventIn,
    EventOut,
    EventQuery,
    StreamQuery,
    TopicOut,
)
from ordinaut.bus import streams_of
from ordinaut.errors import Unavailable
from ordinaut.model import Event
from ordinaut.store import audit, events, journal
from ordinaut.store import topics as store
from ordinaut.store.events import Filter, Listeners, Published

routes = router("/events", "events")

TOPICS_OVER: Final = timedelta(days=7)
PATIENCE: Final = 1.0  # seconds for Redis, without which most of the answer is known


@routes.post("", status_code=status.HTTP_202_ACCEPTED, response_model=EventOut)
async def publish(body: EventIn, work: EventsPublish) -> Response:
    """State a fact. It is stored, and on its way to everybody who listens."""
    [made] = await _publish(work, [body])
    return answer(_written(made), status.HTTP_202_ACCEPTED)


@routes.post("/batch", status_code=status.HTTP_202_ACCEPTED, response_model=Page[EventOut])
async def publish_batch(body: EventBatch, work: EventsPublish) -> Response:
    """State all of the facts, in their order, or none of them when one is not right."""
    made = await _publish(work, body.events)
    items = [_written(event) for event in made]
    return answer({"items": items, "next_cursor": None}, status.HTTP_202_ACCEPTED)


@routes.get("", response_model=Page[EventOut])
async def find(query: Annotated[EventQuery, Query()], work: EventsRead) -> Response:
    """Return events, newest first."""
    given = query.model_dump(exclude={"limit", "cursor"})
    wanted = Filter(owner=work.owner, **given)
    before = cursor_seq(query.cursor)
    async with work.connection() as tx:
        found = await events.page(tx, wanted, limit=query.limit + 1, before=before)
    page, following = paged(found, limit=query.limit, place=lambda event: event.seq)
    return answers.page([_written(event) for event in page], following)


@routes.get("/topics")
async def topics(work: EventsRead) -> Page[TopicOut]:
    """Return the topics of the last week, and how many listen for each."""
    async with work.connection() as tx:
        found = await events.topics(tx, since=work.now - TOPICS_OVER, owner=work.owner)
        listeners = await events.listeners(
            tx, tasks_of=work.sees("tasks:read"), webhooks_of=work.sees("webhooks:read")
        )
    groups = await _groups(work)
    return Page(items=[_topic(*one, listeners, groups) for one in found])


@routes.get("/catalogue", response_model=Page[CatalogueEntry])
async def catalogue(work: EventsRead) -> Response:
    """Return every topic that the product itself speaks of, with the schema of its payload."""
    return answers.page(list(store.catalogue().values()))


@routes.get("/stream", response_class=EventSourceResponse)
async def stream(
    query: Annotated[StreamQuery, Query()],
    work: EventsRead,
    request: Request,
    last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=50)] = None,
) -> EventSourceResponse:
    """Send events as they come (SSE); ``Last-Event-ID`` goes on where a client left off."""
    source = listening.listen(work, query, after=listening.place(last))
    return streaming.stream(request, work.agent, source)


async def _groups(work: Work) -> Counter[str] | None:
    """Return how many groups listen to each stream, as far as it can be known."""
    if not work.agent.may("system:read"):
        return None
    try:
        async with asyncio.timeout(PATIENCE):
            return await subscribers.groups(work.parts.bus)
    except (Unavailable, TimeoutError):
        return None


def _topic(
    topic: str, count: int, last: datetime, known: Listeners, groups: Counter[str] | None
) -> TopicOut:
    tasks, webhooks = known.of(topic)
    return TopicOut(
        topic=topic,
        count=count,
        last_at=last,
        tasks=tasks,
        webhooks=webhooks,
        groups=None if groups is None else sum(groups[name] for name in streams_of(topic)),
    )


async def _publish(work: Work, bodies: Sequence[EventIn]) -> list[Published]:
    quotas.payloads(work, (body.payload for body in bodies))
    given = [Event(body.topic, body.payload, subject=body.subject) for body in bodies]
    async with work.transaction() as tx:
        made = await events.publish(tx, given)
        await audit.record(
            tx,
            work.actor,
            action="event.publish",
            entity="event",
            entity_id=made[0].seq,
            after={"ids": [str(event.seq) for event in made]} if len(made) > 1 else None,
        )
        await journal.hint(tx)
    return made


def _written(event: Published) -> dict[str, Any]:
    return {
        "id": str(event.seq),
        "at": event.at,
        "topic": event.topic,
        "subject": event.subject,
        "task_id": event.task_id,
        "run_id": event.run_id,
        "payload": event.data,
    }
