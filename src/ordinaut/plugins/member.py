"""One extension of this process, from found to stopped.

::

    discovered ── load ──► loaded ── start ──► started ── stop ──► stopped
         └──────────┴── any fault ──► failed, with its reason

All code of the extension runs in its home loop and within a time limit: what it raises, and
what it never finishes, ends in ``failed`` and goes no further.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fastapi import FastAPI

from ordinaut import telemetry
from ordinaut.engine.registry import ToolRegistry
from ordinaut.errors import OrdinautError
from ordinaut.plugins import loader
from ordinaut.plugins.base import Extension
from ordinaut.plugins.home import Home
from ordinaut.plugins.kit import Kit, Offer
from ordinaut.plugins.life import Life
from ordinaut.plugins.loader import Found
from ordinaut.plugins.schema import Manifest

State: TypeAlias = Literal["discovered", "loaded", "started", "stopped", "failed"]


RETRY_SECONDS = 10.0

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an extension may take, in seconds.

    After ``patience`` the process goes on without those that are still starting.
    """

    load: float = 10.0
    start: float = 10.0
    stop: float = 5.0
    patience: float = 5.0


class Member:
    """The state machine of one extension; ``offer`` says what the process has for it."""

    def __init__(
        self,
        found: Found,
        *,
        home: Home,
        offer: Callable[[], Offer],
        tools: ToolRegistry,
        limits: Limits,
    ) -> None:
        self.found = found
        self.state: State = "discovered" if found.manifest is not None else "failed"
        self.reason = found.reason
        self.seconds: dict[str, float] = {}
        self.kit: Kit | None = None
        self.lifespan_state: Mapping[str, Any] = {}
        self.home = home
        self._offer = offer
        self._tools = tools
        self._limits = limits
        self._extension: Extension | None = None
        self._life: Life | None = None
        self._raised_at: float | None = None
        self._lock = asyncio.Lock()

    @property
    def app(self) -> FastAPI | None:
        """The application that serves its routes, if it has any."""
        return self.kit.app if self.kit is not None else None

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The tools that it offers now."""
        return self.kit.tools.names() if self.kit is not None and self.kit.tools else ()

    @property
    def manifest(self) -> Manifest:
        """The manifest of the extension."""
        return self.found.usable

    @property
    def may_try_again(self) -> bool:
        """Whether its start raised some time ago: what it needs may have come back.

        What hung or ran away would only do so again.
        """
        return self._raised_at is not None and time.monotonic() - self._raised_at >= RETRY_SECONDS

    async def load(self) -> None:
        """Import the code and call ``setup``; the state tells how it went."""
        async with self._lock:
            if self.state == "discovered":
                await self._attempt("load", self._load(), limit=self._limits.load)

    async def start(self, *, live: bool) -> None:
        """Bring the extension to ``started``; the state tells how it went.

        With ``live`` false background tasks and subscriptions stay asleep.
        """
        if self.state == "started":
            return
        await self.load()
        async with self._lock:
            if self.state == "loaded":
                await self._attempt("start", self._start(live), limit=self._limits.start)

    async def stop(self) -> None:
        """Stop what was started; harmless in every other state."""
        async with self._lock:
            if self._life is not None:
                leaving = self.home.run(self._life.leave)
                await self._attempt("stop", leaving, limit=self._limits.stop)
            self._withdraw()
            await self.home.close()
            if self.state in ("loaded", "started"):
                self.state = "stopped"

    async def _attempt(self, verb: str, work: Coroutine[Any, Any, None], *, limit: float) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                await work
        except TimeoutError:
            self.fail(f"{verb} took longer than {limit:g} s")
            await self.home.close()
        except OrdinautError as error:
            if self.state != "failed":  # else it was ended, for a reason that is known
                self.fail(error.message)
        except Exception as error:
            log.exception("extension.fault", extension=self.found.id, verb=verb)
            self.fail(f"{verb}: {type(error).__name__}: {error}")
            self._raised_at = time.monotonic() if verb == "start" else None
        self.seconds[verb] = time.monotonic() - began

    async def end_runaway(self) -> None:
        """Fail an extension that computes without giving way, and end it."""
        self.fail("its code computed for seconds without giving way")
        await self.home.close()

    def fail(self, reason: str) -> None:
        """Say that it can not be used, and take its tools away."""
        self.state, self.reason = "failed", reason
        self._withdraw()
        log.warning("extension.failed", extension=self.found.id, reason=reason)

    async def _load(self) -> None:
        self._extension, kit = await self.home.run(self._import)
        self.kit = kit
        if kit.tools is not None:
            kit.tools.commit(self._tools)
        self.state = "loaded"

    async def _import(self) -> tuple[Extension, Kit]:
        extension = loader.load(self.found)
        kit = Kit(self._offer(), extension)
        kit.set_up(extension)
        return extension, kit

    async def _start(self, live: bool) -> None:
        assert self._extension is not None
        assert self.kit is not None
        life = Life(self._extension, self.kit, live=live)
        self.lifespan_state = await self.home.run(life.enter)
        self._life = life
        if self.state == "loaded":
            self.state = "started"

    def _withdraw(self) -> None:
        self._life = None
        if self.kit is not None and self.kit.tools is not None:
            self.kit.tools.withdraw()
