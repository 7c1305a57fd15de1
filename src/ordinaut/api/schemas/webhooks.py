"""Webhooks and their deliveries as they are sent and answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

from pydantic import Field, StringConstraints, field_validator

from ordinaut.api.schemas.base import Answer, Body, Instant, PageQuery, Text
from ordinaut.api.schemas.events import MAX_TOPIC, PATTERN
from ordinaut.store.deliveries import Status as DeliveryStatus
from ordinaut.store.webhooks import Status

MAX_URL = 2_048
MAX_TOPICS = 20
LONGEST_OVERLAP = 7 * 86_400

Url: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL)]
Pattern: TypeAlias = Annotated[str, StringConstraints(pattern=PATTERN, max_length=MAX_TOPIC)]
Topics: TypeAlias = Annotated[list[Pattern], Field(min_length=1, max_length=MAX_TOPICS)]
Filter: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]


class WebhookIn(Body):
    """An address that shall be told of events; ``*`` in a topic stands for one word.

    ``filter`` is JMESPath over the event, as for tasks of kind ``event``.
    """

    url: Url
    topics: Topics
    filter: Filter | None = None
    description: Text = ""

    @field_validator("topics")
    @classmethod
    def _not_about_webhooks(cls, topics: list[str]) -> list[str]:
        if any(topic.split(".")[0] == "webhook" for topic in topics):
            raise ValueError("what is said about webhooks is told to no webhook")
        return topics


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class WebhookPatch(WebhookIn):
    """What changes of a webhook; what is left out stays. ``active`` ends a pause or an end."""

    url: Url = Field(default="", json_schema_extra=_without_default)
    topics: Topics = Field(default_factory=list)
    status: Literal["active", "paused"] = Field(
        default="active", json_schema_extra=_without_default
    )


class WebhookOut(Answer):
    """A webhook; ``reason`` says why it is disabled."""

    id: UUID
    url: str
    topics: list[str]
    filter: str | None
    description: str
    status: Status
    reason: str
    failing_since: Instant | None
    created_by: UUID
    created_at: Instant
    updated_at: Instant


class NewWebhook(WebhookOut):
    """A webhook with the secret that signs, which is shown this once."""

    signing_secret: str


class Rotation(Body):
    """For how long the secret that is replaced signs as well."""

    overlap_seconds: Annotated[int, Field(ge=0, le=LONGEST_OVERLAP)] = 86_400


class DeliveryOut(Answer):
    """An event on its way to a webhook; its ``id`` is the ``webhook-id`` of every attempt.

    A test has no ``event_id``.
    """

    id: UUID
    webhook_id: UUID
    event_id: str | None
    topic: str
    status: DeliveryStatus
    attempts: int
    response_status: int | None
    error: str
    created_at: Instant
    attempted_at: Instant | None
    next_attempt_at: Instant | None
    finished_at: Instant | None


class DeliveryQuery(PageQuery):
    """Which deliveries."""

    status: DeliveryStatus | None = None
