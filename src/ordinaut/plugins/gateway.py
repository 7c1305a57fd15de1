"""The door to the routes of extensions: one ASGI application, mounted at ``/ext``.

The first request to a lazy extension loads it and is then served in place: nothing of it was
read yet, so method, body and all arrive as they were sent. Nobody who is not allowed to use an
extension makes it load.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.types import Message, Receive, Scope, Send

from ordinaut import telemetry
from ordinaut.errors import ExtensionError, Forbidden, NotFound, OrdinautError
from ordinaut.plugins.base import Capability
from ordinaut.plugins.facades import denial
from ordinaut.plugins.home import RUNAWAY_SECONDS
from ordinaut.plugins.member import Member
from ordinaut.plugins.schema import Manifest

# Raises Unauthenticated or Forbidden unless the caller holds the scope.
Authorize: TypeAlias = Callable[[Scope, str], Awaitable[None]]

_OF_THE_OUTER_APP = ("router", "endpoint", "route", "path_params")

log = telemetry.logger(__name__)


async def refuse_all(scope: Scope, needed: str) -> None:
    """Stand in until the API says who may pass."""
    raise Forbidden(f"needs the scope {needed}")


@dataclass(frozen=True, slots=True)
class Served:
    """Stands as the route of a request that an extension answered."""

    path: str


class Gateway:
    """Finds the extension that a path names, lets it start, and hands the request over."""

    def __init__(
        self,
        find: Callable[[str], Member],
        start: Callable[[str], Awaitable[Member]],
        authorize: Authorize,
    ) -> None:
        self._find = find
        self._start = start
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(scope, receive, send)
        except OrdinautError as error:
            if scope["type"] != "websocket":
                raise  # the API turns it into problem+json
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        name, _, rest = scope["path"][len(root) :].lstrip("/").partition("/")
        manifest = self._find(name).manifest
        capability = _served_by(manifest)
        if not is_public(manifest, scope.get("method", "GET"), f"/{rest}"):
            await self._authorize(scope, f"ext:{name}:{capability}")
        member = await self._start(name)
        if member.app is None:
            raise denial(name, capability)
        if (seconds := member.home.silence()) >= RUNAWAY_SECONDS:
            # Requests that nobody answers would pile up behind the one that blocks.
            text = f"its code has blocked its event loop for {seconds:.0f} s"
            raise ExtensionError(f"extension {name!r} is not available: {text}")
        child = _child(scope, f"{root}/{name}", rest, member.lifespan_state)
        await self._run(member, child, receive, send)
        # For the outer application's metrics: which route of the extension it was.
        template = getattr(child.get("route"), "path", "")
        scope["route"] = Served(f"{root}/{name}{template}")

    async def _run(self, member: Member, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        assert member.app is not None
        try:
            await member.home.serve(member.app, scope, receive, watched)
        except Exception as error:
            # Its own handler has answered with 500; the error ends here, not in the core's log
            # as a fault of the core.
            log.exception("extension.route_failed", extension=member.found.id, path=scope["path"])
            if not answered:
                text = f"{type(error).__name__}: {error}"
                raise ExtensionError(f"extension {member.found.id!r}: {text}") from None


def is_public(manifest: Manifest, method: str, path: str) -> bool:
    """Tell whether the manifest declares the route public; a GET stands for HEAD too."""
    if ".." in path or "//" in path or "\\" in path:
        return False
    return any(_matches(route, method, path) for route in manifest.public_routes)


def _matches(route: str, method: str, path: str) -> bool:
    declared, _, pattern = route.rpartition(" ")
    if method not in ((declared,) if declared else ("GET", "HEAD")):
        return False
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def _served_by(manifest: Manifest) -> Capability:
    for capability in (Capability.ROUTES, Capability.STATIC):
        if capability in manifest.grants:
            return capability
    raise NotFound(f"extension {manifest.id!r} has no routes")


def _child(scope: Scope, root: str, rest: str, state: Mapping[str, Any]) -> Scope:
    """The scope as the extension's application sees it, mounted at ``root``."""
    child = {key: value for key, value in scope.items() if key not in _OF_THE_OUTER_APP}
    child["root_path"] = child["app_root_path"] = root
    child["state"] = {**scope.get("state", {}), **state}
    if not rest and not scope["path"].endswith("/"):
        child["path"] = f"{root}/"  # /ext/demo is /ext/demo/, served in place
    return child
