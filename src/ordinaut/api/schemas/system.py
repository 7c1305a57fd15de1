"""The state of the system as it is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from ordinaut.api.schemas.base import Answer, Instant, PageQuery
from ordinaut.model import Effect, Json


class Health(Answer):
    """Whether a process can do its work, and if not, why."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field(default_factory=dict)


class ProcessOut(Answer):
    """A process of the cluster."""

    id: UUID
    kind: Literal["worker", "scheduler", "api"]
    host: str
    pid: int
    version: str
    state: Literal["running", "draining", "stopped", "lost"]
    details: Json
    started_at: Instant
    heartbeat_at: Instant
    leases: int


class QueueOut(Answer):
    """Due work by state."""

    counts: Mapping[str, int]
    total: int
    oldest_ready_seconds: float | None


class ToolOut(Answer):
    """A tool that a step can call."""

    name: str
    description: str
    effect: Effect
    input_schema: Json
    output_schema: Json
    timeout_seconds: float | None
    examples: list[Any]


class AuditQuery(PageQuery):
    """Which entries of the audit log."""

    entity: Annotated[str, Field(max_length=50)] | None = None
    entity_id: Annotated[str, Field(max_length=200)] | None = None
    actor_id: UUID | None = None
    action: Annotated[str, Field(max_length=50)] | None = None


class AuditEntry(Answer):
    """Who did what, when, from where."""

    seq: int
    at: Instant
    actor_id: UUID | None
    actor: str
    action: str
    entity: str
    entity_id: str
    before: Json
    after: Json
    request_id: str
    address: str
