"""Secrets as they are sent and answered: what is sent is never answered."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias
from uuid import UUID

from fastapi import Path
from pydantic import Field, SecretStr

from ordinaut.api.schemas.base import Answer, Body, Instant, PageQuery
from ordinaut.engine.redaction import MIN_LENGTH

MAX_LENGTH: Final = 16_384

# What stands after "secrets." in an expression without quotes.
SecretName: TypeAlias = Annotated[str, Path(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class SecretIn(Body):
    """The value of a secret; a shorter one could not be kept out of what is stored."""

    value: Annotated[SecretStr, Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]


class SecretOut(Answer):
    """A secret without its value."""

    name: str
    agent_id: UUID
    created_at: Instant
    updated_at: Instant


class SecretQuery(PageQuery):
    """Which secrets."""

    agent_id: UUID | None = None
