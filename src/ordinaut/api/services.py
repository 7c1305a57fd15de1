"""What the routes work with: made once at start, the same for every request."""

from __future__ import annotations

from dataclasses import dataclass

from ordinaut.api.auth import Authenticator
from ordinaut.api.checks import NextOccurrences, PipelineCheck
from ordinaut.api.limits import Limits
from ordinaut.bus import Bus
from ordinaut.clock import Clock
from ordinaut.config import Settings
from ordinaut.engine.registry import ToolRegistry
from ordinaut.plugins.host import ExtensionHost
from ordinaut.store.database import Database
from ordinaut.store.secrets import Keyring


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that a request may use."""

    settings: Settings
    clock: Clock
    db: Database
    bus: Bus
    auth: Authenticator
    host: ExtensionHost
    check: PipelineCheck
    following: NextOccurrences
    keys: Keyring
    limits: Limits

    @property
    def tools(self) -> ToolRegistry:
        """What a step can call."""
        return self.host.tools
