"""Who listens to events, and the dead letters of those who could not handle theirs."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import Query, Response

from ordinaut import subscribers
from ordinaut.api import answers
from ordinaut.api.dependencies import Administration, SystemRead, Work
from ordinaut.api.routing import router
from ordinaut.api.schemas.base import Page
from ordinaut.api.schemas.subscribers import (
    DeadLetter,
    DeadLetterQuery,
    DeadLetters,
    Handled,
    StreamOut,
)
from ordinaut.bus import Message
from ordinaut.store import audit

routes = router("/events", "events")


@routes.get("/subscribers", response_model=Page[StreamOut])
async def overview(work: SystemRead) -> Response:
    """Return the streams with their groups: lag, what is pending, dead consumers and letters."""
    return answers.page(await subscribers.overview(work.parts.bus))


@routes.get("/dead-letters")
async def find(query: Annotated[DeadLetterQuery, Query()], work: SystemRead) -> Page[DeadLetter]:
    """Return what a group of a stream could not handle, newest first."""
    found = await subscribers.letters(
        work.parts.bus, query.stream, before=query.cursor, limit=query.limit + 1
    )
    page = found[: query.limit]
    following = page[-1].id if len(found) > query.limit else None
    return Page(items=[_letter(query.stream, one) for one in page], next_cursor=following)


@routes.post("/dead-letters/redeliver")
async def redeliver(body: DeadLetters, work: Administration) -> Handled:
    """Give dead letters to the groups once more that could not handle them."""
    await _note(work, body, action="redeliver")
    return Handled(count=await subscribers.redeliver(work.parts.bus, body.stream, body.ids))


@routes.post("/dead-letters/drop")
async def drop(body: DeadLetters, work: Administration) -> Handled:
    """Forget dead letters."""
    await _note(work, body, action="drop")
    return Handled(count=await subscribers.drop(work.parts.bus, body.stream, body.ids))


async def _note(work: Work, body: DeadLetters, *, action: str) -> None:
    """Write down what was asked, before Redis does what no transaction takes back.

    Not in the transaction of an Idempotency-Key: that one ends after the act, or never.
    """
    async with work.parts.db.transaction() as tx:
        await audit.record(
            tx,
            work.actor,
            action=f"dead_letters.{action}",
            entity="stream",
            entity_id=body.stream,
            after={"ids": body.ids},
        )


def _letter(stream: str, one: Message) -> DeadLetter:
    fields = one.fields
    return DeadLetter(
        id=one.id,
        stream=stream,
        group=fields.get("group", ""),
        error=fields.get("error", ""),
        event_id=fields.get("id", ""),
        topic=fields.get("type", ""),
        payload=_payload(fields.get("data")),
    )


def _payload(text: str | None) -> object:
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # perhaps the reason why it is here
