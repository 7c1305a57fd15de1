"""What the routes work with: made once at start, the same for every request."""

from __future__ import annotations

from dataclasses import dataclass

from ordinaut.api.auth import Authenticator
from ordinaut.api.checks import PipelineCheck
from ordinaut.clock import Clock
from ordinaut.config import Settings
from ordinaut.engine.registry import ToolRegistry
from ordinaut.store.database import Database


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that a request may use."""

    settings: Settings
    clock: Clock
    db: Database
    auth: Authenticator
    tools: ToolRegistry
    check: PipelineCheck
