"""Who listens to events, as it is answered."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

from ordinaut.api.schemas.base import Answer, Body, PageQuery
from ordinaut.bus import EVENTS, entry_id
from ordinaut.model import Json

EntryId: TypeAlias = Annotated[
    str, Field(pattern=r"^[0-9]{1,20}-[0-9]{1,20}$"), AfterValidator(entry_id)
]


class MemberOut(Answer):
    """A consumer of a group; ``dead`` when it holds messages and says nothing any more."""

    name: str
    pending: int
    idle_seconds: float
    dead: bool


class GroupOut(Answer):
    """A group: ``lag`` messages were given to nobody yet, ``pending`` are not acknowledged."""

    stream: str
    group: str
    lag: int | None
    pending: int
    consumers: list[MemberOut]


class StreamOut(Answer):
    """A stream and who listens to it."""

    stream: str
    length: int
    dead_letters: int
    groups: list[GroupOut]


class DeadLetterQuery(PageQuery):
    """Of which stream."""

    stream: Annotated[str, Field(max_length=300)] = EVENTS
    cursor: EntryId | None = None


class DeadLetters(Body):
    """Which dead letters: the ``id`` of each as they are listed."""

    stream: Annotated[str, Field(max_length=300)]
    ids: Annotated[list[EntryId], Field(min_length=1, max_length=1000)]


class DeadLetter(Answer):
    """A message that a group could not handle; ``event_id`` is the id of its event."""

    id: str
    stream: str
    group: str
    error: str
    event_id: str
    topic: str
    payload: Json


class Handled(Answer):
    """How many dead letters there were."""

    count: int
