"""The contract between Ordinaut and an extension: the only module an extension imports.

An extension is a folder with ``extension.json`` (:mod:`ordinaut.plugins.schema`) and a module
that has ``get_extension()``. It asks for capabilities; what it was granted comes to
:meth:`Extension.setup` as facades. A facade that was not granted does not exist: using it
raises :class:`CapabilityDenied` with the name of the capability.

Extensions are trusted code inside the process. What is enforced here is what they can reach
through Ordinaut, not what Python lets them do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from fastapi import APIRouter, FastAPI

from ordinaut.engine.processes import ProcessDied, in_process
from ordinaut.engine.signature import ToolFunction
from ordinaut.engine.tool import Progress, RunsIn, Tool, ToolContext
from ordinaut.errors import (
    CapabilityDenied,
    EffectUnknown,
    ExtensionError,
    OrdinautError,
    ToolError,
)
from ordinaut.model import Effect, Json
from ordinaut.plugins.search import search
from ordinaut.telemetry import logger

__all__ = [
    "API_VERSION",
    "Background",
    "Capability",
    "CapabilityDenied",
    "Context",
    "Effect",
    "EffectUnknown",
    "Events",
    "Extension",
    "ExtensionError",
    "ExtensionInfo",
    "Figures",
    "Json",
    "Message",
    "OrdinautError",
    "ProcessDied",
    "Progress",
    "RunsIn",
    "Services",
    "Static",
    "Tool",
    "ToolContext",
    "ToolError",
    "Tools",
    "in_process",
    "logger",
    "search",
]

API_VERSION = 1


class Capability(StrEnum):
    """What an extension may ask for; nothing is granted by default."""

    ROUTES = "routes"
    TOOLS = "tools"
    EVENTS_PUB = "events_pub"
    EVENTS_SUB = "events_sub"
    BACKGROUND_TASKS = "background_tasks"
    STATIC = "static"


@dataclass(frozen=True, slots=True)
class ExtensionInfo:
    """Who the extension is; ``id`` is the one of its manifest."""

    id: str
    name: str
    version: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One event as a handler receives it; ``attempt`` counts deliveries from 1.

    Delivery is at least once: a handler recognises a repetition by ``id``.
    """

    id: str
    name: str
    data: Json
    attempt: int = 1


Handler: TypeAlias = Callable[[Message], Awaitable[None]]


class Tools(Protocol):
    """``tool_registry``: what the extension can do in a pipeline (TOOLS)."""

    def register(
        self,
        name: str,
        fn: ToolFunction,
        *,
        input_schema: Json = None,
        output_schema: Json = None,
        description: str = "",
        effect: Effect = "idempotent",
        timeout: float | None = None,
        examples: Sequence[Json] = (),
        runs_in: RunsIn = "thread",
    ) -> None:
        """Offer ``fn`` as ``ext.<id>.<name>``; schemas come from its type hints when not given.

        ``fn`` takes its arguments by keyword; a parameter ``context`` gets the
        :class:`ToolContext`. It may be async, sync (it then runs in a thread) or an async
        generator that yields :class:`Progress` and at last the output. A sync function of a
        module that computes for long ``runs_in`` a process of its own. It may be registered
        later than in ``setup``: what another system offers is known only when it answers.
        """

    def unregister(self, name: str) -> None:
        """Take a tool away; runs that reach a step of it wait for its return, as in a deploy."""


class Events(Protocol):
    """``context["events"]``: streams ``ordinaut:ext:<id>:<name>`` (EVENTS_PUB, EVENTS_SUB)."""

    async def publish(self, name: str, payload: Json) -> None:
        """Write an event into the outbox: topic ``ext.<id>.<name>``."""

    def subscribe(
        self, name: str, handler: Handler | None = None, *, group: str = "default"
    ) -> Any:
        """Call ``handler`` for each message; without a handler this is a decorator.

        ``name`` is an event of this extension, ``<id>:<name>`` one of another, ``*`` stands for
        all events of the product. Each message goes to one consumer of the group, and is
        acknowledged after the handler returned.
        """

    async def dead_letters(self, name: str, *, limit: int = 100) -> list[Message]:
        """Return messages that were given up, the oldest first."""


class Background(Protocol):
    """``context["background"]``: supervised tasks (BACKGROUND_TASKS)."""

    def run(
        self,
        name: str,
        fn: Callable[[], Awaitable[None]],
        *,
        restart: bool = True,
        one_leader: bool = False,
    ) -> None:
        """Keep ``fn()`` running while the extension is started, again with backoff if it ends.

        With ``one_leader`` it runs in one process of the cluster at a time.
        """


class Static(Protocol):
    """``context["static"]``: files of the extension's folder (STATIC)."""

    def mount(self, path: str, directory: str) -> None:
        """Serve ``directory``, inside the extension's folder, under ``path``."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How the cluster fares, for metrics.

    ``queue`` is the due work by state: how much, and the age of the oldest in seconds.
    ``processes`` counts by kind and state, ``run_events`` by topic since the first call.
    ``groups`` are those that listen, by stream and name: lag, pending, dead consumers.
    ``dead_letters`` counts by stream. Both are empty while Redis is away.
    """

    queue: Mapping[str, tuple[int, float]]
    processes: Mapping[tuple[str, str], int]
    run_events: Mapping[str, int]
    groups: Mapping[tuple[str, str], tuple[int | None, int, int]] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)


class Services(Protocol):
    """``context["services"]``: what the core does for its own tool packs.

    Given by the process that hosts the tools; strangers use the HTTP API with a token.
    """

    async def publish(self, call: ToolContext, *, topic: str, payload: Json) -> None:
        """Write an event into the outbox."""

    async def run_task(self, call: ToolContext, *, task_id: UUID, params: Json, wait: bool) -> Json:
        """Enqueue a run of another task and return ``{"run_id": …}``, after its end if ``wait``."""

    async def figures(self) -> Figures:
        """Return how the cluster fares."""


class Context(Mapping[str, Any]):
    """What was granted to one extension, by name.

    ``config``, ``log`` and ``folder`` are always there; ``events``, ``background`` and ``static``
    only when granted; ``services`` and ``listen`` (to the facts of this process) only for what
    is built in. ``context["x"]`` raises :class:`CapabilityDenied` for what was not granted,
    ``context.get("x")`` gives ``None``.
    """

    def __init__(self, granted: Mapping[str, Any], denied: Mapping[str, CapabilityDenied]) -> None:
        self._granted = dict(granted)
        self._denied = dict(denied)

    def __getitem__(self, key: str) -> Any:
        if key in self._denied:
            raise self._denied[key]
        return self._granted[key]

    def __contains__(self, key: object) -> bool:
        return key in self._granted

    def __iter__(self) -> Iterator[str]:
        return iter(self._granted)

    def __len__(self) -> int:
        return len(self._granted)

    def get(self, key: str, default: Any = None) -> Any:
        return self._granted.get(key, default)


class Extension:
    """What a stranger writes; every method but :meth:`info` has a default."""

    def info(self) -> ExtensionInfo:
        """Say who this is."""
        raise NotImplementedError(f"{type(self).__name__}.info() is missing")

    def requested_capabilities(self) -> set[Capability]:
        """Say what this extension needs; it gets no more than its manifest and operator allow."""
        return set()

    def setup(
        self,
        *,
        app: FastAPI,
        mount_path: str,
        tool_registry: Tools,
        grants: frozenset[Capability],
        context: Context,
    ) -> APIRouter | None:
        """Register tools, handlers and tasks; return the routes, if any.

        Runs once, in a thread, before anything is served; it may name only the arguments that
        it wants. ``app`` is the extension's own application, served at ``mount_path``.
        """
        return None

    async def on_startup(self, app: FastAPI) -> None:
        """Open what has to be closed; runs in the event loop, before the first request."""

    async def on_shutdown(self, app: FastAPI) -> None:
        """Close what :meth:`on_startup` opened."""
