"""Events: state a fact, look back, listen."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import Header, Query, Request, Response, status
from sse_starlette import EventSourceResponse

from ordinaut.api import answers, listening
from ordinaut.api.answers import answer
from ordinaut.api.dependencies import EventsPublish, EventsRead
from ordinaut.api.paging import cursor_seq, paged
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.events import (
    CatalogueEntry,
    EventIn,
    EventOut,
    EventQuery,
    StreamQuery,
    TopicOut,
)
from ordinaut.store import audit, events, journal
from ordinaut.store import topics as store
from ordinaut.store.events import Filter, Published

routes = router("/events", "events")

TOPICS_OVER: Final = timedelta(days=7)


@routes.post("", status_code=status.HTTP_202_ACCEPTED, response_model=EventOut)
async def publish(body: EventIn, work: EventsPublish) -> Response:
    """State a fact. It is stored, and on its way to everybody who listens."""
    async with work.transaction() as tx:
        made = await events.publish(tx, topic=body.topic, subject=body.subject, data=body.payload)
        await audit.record(
            tx, work.actor, action="event.publish", entity="event", entity_id=made.seq
        )
        await journal.hint(tx)
    return answer(_written(made), status.HTTP_202_ACCEPTED)


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
    """Return the topics of the last week."""
    async with work.connection() as tx:
        found = await events.topics(tx, since=work.now - TOPICS_OVER, owner=work.owner)
    return Page(items=[TopicOut(topic=t, count=n, last_at=at) for t, n, at in found])


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
    return EventSourceResponse(source, ping=listening.PING_SECONDS)


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
