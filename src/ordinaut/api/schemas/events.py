"""Events as they are sent and answered."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from ordinaut.api.schemas.base import Answer, Body, Instant, PageQuery, Query
from ordinaut.model import Json
from ordinaut.store.events import RESERVED

TOPIC = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
PATTERN = r"^(\*|[A-Za-z0-9_-]+)(\.(\*|[A-Za-z0-9_-]+))*$"
MAX_TOPIC = 200
MAX_BATCH = 1_000


def _not_reserved(topic: str) -> str:
    if topic.split(".")[0] in RESERVED:
        raise ValueError(f"topics that begin with {', '.join(RESERVED)} belong to the core")
    return topic


class EventIn(Body):
    """A fact; tasks of kind ``event`` whose topic fits are started with it."""

    topic: Annotated[
        str,
        StringConstraints(pattern=TOPIC, max_length=MAX_TOPIC),
        AfterValidator(_not_reserved),
    ]
    payload: Json = None
    subject: Annotated[str, StringConstraints(max_length=200)] = ""


class EventBatch(Body):
    """Facts that are stated together, in their order."""

    events: Annotated[list[EventIn], Field(min_length=1, max_length=MAX_BATCH)]


class EventOut(Answer):
    """A fact; ``id`` is the same wherever it appears."""

    id: str
    at: Instant
    topic: str
    subject: str
    task_id: UUID | None
    run_id: UUID | None
    payload: Json


class EventQuery(PageQuery):
    """Which events; ``*`` in ``topic`` stands for one segment."""

    topic: Annotated[str, Field(pattern=PATTERN, max_length=MAX_TOPIC)] | None = None
    subject: Annotated[str, Field(max_length=200)] | None = None
    task_id: UUID | None = None
    run_id: UUID | None = None
    since: Instant | None = None
    until: Instant | None = None


class StreamQuery(Query):
    """Which events shall be sent as they come."""

    topic: Annotated[str, Field(pattern=PATTERN, max_length=MAX_TOPIC)] | None = None
    task_id: UUID | None = None
    run_id: UUID | None = None


class CatalogueEntry(Answer):
    """A topic of the product itself, and the JSON Schema of its payload."""

    topic: str
    when: str
    json_schema: Json = Field(alias="schema", serialization_alias="schema")


class TopicOut(Answer):
    """A topic, how many events it had within a week, when the last, and who listens for it.

    ``groups`` is null for who may not see the system, and while Redis is away.
    """

    topic: str
    count: int
    last_at: Instant
    tasks: int
    webhooks: int
    groups: int | None
