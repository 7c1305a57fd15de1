"""Extensions as they are shown, chosen and configured."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias
from uuid import UUID

from fastapi import Path
from pydantic import Field

from ordinaut.api.schemas.base import Answer, Body, Instant, JsonObject
from ordinaut.model import Json

ExtensionId: TypeAlias = Annotated[str, Path(max_length=100)]


class ExtensionOut(Answer):
    """An extension and how it fares in this process."""

    id: str
    name: str
    version: str
    description: str
    source: str
    enabled: bool
    eager: bool
    state: str
    reason: str
    grants: list[str]
    mount_path: str
    load_seconds: float | None
    start_seconds: float | None
    tools: list[str]
    background: list[dict[str, Any]]
    subscriptions: list[dict[str, Any]]


class ChoiceOut(Answer):
    """What was chosen; all processes follow within seconds."""

    id: str
    enabled: bool


class ConfigIn(Body):
    """The whole configuration; a text may name secrets of the caller as ${secrets.NAME}."""

    config: Annotated[JsonObject, Field(max_length=200)]


class ConfigOut(Answer):
    """What was configured over the API, with secrets by name, and whose secrets they are."""

    id: str
    config: Json
    config_schema: Json
    agent_id: UUID | None
    updated_at: Instant | None
