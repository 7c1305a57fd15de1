"""Everything one extension is handed, built from what it was granted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.staticfiles import StaticFiles

from ordinaut import telemetry
from ordinaut.errors import ExtensionError
from ordinaut.model import Event, Json
from ordinaut.plugins.application import new_application
from ordinaut.plugins.backend import Backend
from ordinaut.plugins.background import Supervisor
from ordinaut.plugins.base import Capability, Context, Extension
from ordinaut.plugins.events import EventsFacade
from ordinaut.plugins.facades import Denied, StaticFacade, ToolFacade, denial
from ordinaut.plugins.home import Home
from ordinaut.plugins.schema import Manifest

MOUNT = "/ext"
_EVENTS = {Capability.EVENTS_PUB, Capability.EVENTS_SUB}


@dataclass(frozen=True, slots=True)
class Offer:
    """What the process has for one extension, before it is asked what it wants."""

    manifest: Manifest
    folder: Path
    home: Home
    allowed: frozenset[Capability]
    config: Mapping[str, Json]
    backend: Backend
    built_in: bool


@dataclass(frozen=True, slots=True)
class LeasesFromHome:
    """The leases of the backend, asked for in the core's loop."""

    offer: Offer

    async def take(self, name: str) -> bool:
        return await self.offer.home.back(self.offer.backend.leases.take, name)

    async def give_back(self, name: str) -> None:
        await self.offer.home.back(self.offer.backend.leases.give_back, name)


class Kit:
    """The facades of one extension; those that were not granted are ``None`` or denied."""

    def __init__(self, offer: Offer, extension: Extension) -> None:
        self.grants = _requested(extension, offer.manifest) & offer.allowed
        self.mount_path = f"{MOUNT}/{offer.manifest.id}"
        self._offer = offer
        served = self.grants & {Capability.ROUTES, Capability.STATIC}
        self.app = new_application(offer.manifest) if served else None
        self.tools = self._if(Capability.TOOLS, lambda: ToolFacade(offer.manifest, offer.home))
        self.background = self._if(
            Capability.BACKGROUND_TASKS,
            lambda: Supervisor(offer.manifest.id, LeasesFromHome(offer)),
        )
        self.events = self._events() if self.grants & _EVENTS else None
        self.static = self._if(Capability.STATIC, lambda: StaticFacade(offer.folder))

    def _if(self, capability: Capability, make: Callable[[], Any]) -> Any:
        return make() if capability in self.grants else None

    def _events(self) -> EventsFacade:
        id, offer = self._offer.manifest.id, self._offer

        async def publish(event: Event) -> None:
            await offer.home.back(offer.backend.publish, event)

        may = self.grants
        return EventsFacade(
            id,
            publish=publish if Capability.EVENTS_PUB in may else denial(id, Capability.EVENTS_PUB),
            transport=offer.backend.transport
            if Capability.EVENTS_SUB in may
            else denial(id, Capability.EVENTS_SUB),
            pace=offer.backend.pace,
        )

    @property
    def app_facade(self) -> Any:
        """What the extension gets as ``app``."""
        if Capability.ROUTES in self.grants:
            return self.app
        return self._denied(Capability.ROUTES)

    @property
    def workers(self) -> tuple[AbstractAsyncContextManager[Any], ...]:
        """What has to run while the extension is started."""
        return tuple(one for one in (self.background, self.events) if one is not None)

    def _denied(self, capability: Capability) -> Denied:
        return Denied(denial(self._offer.manifest.id, capability))

    def context(self) -> Context:
        """Build ``context``."""
        offer = self._offer
        facades = {
            "background": (self.background, (Capability.BACKGROUND_TASKS,)),
            "events": (self.events, (Capability.EVENTS_PUB, Capability.EVENTS_SUB)),
            "static": (self.static, (Capability.STATIC,)),
        }
        always = {
            "config": dict(offer.config),
            "log": telemetry.logger(f"ordinaut.ext.{offer.manifest.id}"),
            "folder": offer.folder,
        }
        granted = {key: facade for key, (facade, _) in facades.items() if facade is not None}
        denied = {
            key: denial(offer.manifest.id, *capabilities)
            for key, (facade, capabilities) in facades.items()
            if facade is None
        }
        if offer.built_in:
            # A listener runs in the middle of the core's work; a stranger's could stop it.
            always |= {"services": offer.backend.services, "listen": telemetry.listen}
        return Context(always | granted, denied)

    def set_up(self, extension: Extension) -> None:
        """Call ``setup`` with the arguments it names, and take its routes."""
        offered: dict[str, Any] = {
            "app": self.app_facade,
            "mount_path": self.mount_path,
            "tool_registry": self.tools or self._denied(Capability.TOOLS),
            "grants": self.grants,
            "context": self.context(),
        }
        router = extension.setup(**_chosen(extension.setup, offered))
        if router is not None:
            self._include(router)
        if self.static is not None and self.app is not None:
            for path, directory in self.static.mounts.items():
                self.app.mount(path, StaticFiles(directory=directory))

    def _include(self, router: object) -> None:
        if Capability.ROUTES not in self.grants or self.app is None:
            raise denial(self._offer.manifest.id, Capability.ROUTES)
        if not isinstance(router, APIRouter):
            raise ExtensionError(f"setup() returned {type(router).__name__}, not an APIRouter")
        self.app.include_router(router)


def _requested(extension: Extension, manifest: Manifest) -> frozenset[Capability]:
    if (given := extension.info().id) != manifest.id:
        raise ExtensionError(f"info() says {given!r}, the manifest says {manifest.id!r}")
    requested = frozenset(extension.requested_capabilities())
    if strange := [one for one in requested if not isinstance(one, Capability)]:
        raise ExtensionError(f"requested_capabilities(): {strange[0]!r} is not a Capability")
    return requested


def _chosen(setup: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that ``setup`` names; refuse one that it needs and nobody has."""
    parameters = inspect.signature(setup).parameters.values()
    named = {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in offered:
            raise ExtensionError(f"setup() asks for {name!r}; there are {', '.join(offered)}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return offered
    return {name: value for name, value in offered.items() if name in named}
