"""The extensions of one process: found once, loaded when needed, shown with their states.

An API process serves everything (``async with host``): extensions that are eager, have tools,
or work without being asked start with it; the others at their first request
(:mod:`ordinaut.plugins.gateway`). A worker calls :meth:`ExtensionHost.start_tools` and hosts
only the tools.

Granted is what the extension requests, its manifest grants *and* the operator allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType

from ordinaut import telemetry
from ordinaut.config import Settings
from ordinaut.engine.nearest import hint
from ordinaut.engine.registry import ToolRegistry
from ordinaut.errors import ExtensionError, Forbidden, InvalidInput, NotFound
from ordinaut.model import Json
from ordinaut.plugins import loader, options
from ordinaut.plugins.backend import Backend, backend_of
from ordinaut.plugins.base import Capability
from ordinaut.plugins.changes import Changes
from ordinaut.plugins.description import Description, describe, describe_refused
from ordinaut.plugins.gateway import Authorize, Gateway, refuse_all
from ordinaut.plugins.home import CoreHome, Home, ThreadHome
from ordinaut.plugins.kit import Offer
from ordinaut.plugins.loader import Found
from ordinaut.plugins.member import Limits, Member
from ordinaut.plugins.references import Choice
from ordinaut.plugins.schema import MANIFEST, Manifest
from ordinaut.store.database import Database

WATCH_SECONDS = 1.0
FOLLOW_SECONDS = 5.0
CHOICES_SECONDS = 3.0

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Role:
    """What a process wants of extensions: which ones start with it, and whether they live.

    Where they do not live, their background tasks and subscriptions stay asleep.
    """

    wants: Callable[[Manifest], bool]
    live: bool


def _can_not_wait(manifest: Manifest) -> bool:
    on_demand = manifest.grants & {Capability.ROUTES, Capability.STATIC}
    return manifest.eager or Capability.TOOLS in manifest.grants or not on_demand


API = Role(_can_not_wait, live=True)
WORKER = Role(lambda manifest: Capability.TOOLS in manifest.grants, live=False)


class ExtensionHost:
    """Owns the extensions of this process and the registry their tools stand in."""

    def __init__(
        self,
        settings: Settings,
        *,
        db: Database | None = None,
        authorize: Authorize = refuse_all,
        found: Iterable[Found] | None = None,
        backend: Backend | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.tools = ToolRegistry()
        self._settings = settings
        self._backend = backend or backend_of(settings, db)
        self._refused: list[Found] = []
        self._members: dict[str, Member] = {}
        self._limits = limits or Limits()
        self._disabled: set[str] = set()
        self._chosen: dict[str, Choice] = {}
        self._role = API
        self._duties: list[asyncio.Task[None]] = []
        self.gateway = Gateway(self._member_of, self.started, authorize)
        for one in loader.discover(settings.ext_paths) if found is None else found:
            self._add(one)

    async def start_tools(self) -> None:
        """Start every enabled extension that may have tools, and nothing but its tools."""
        await self._start(WORKER)

    async def start(self) -> None:
        """Start what can not wait for a request: eager, with tools, or without routes."""
        await self._start(API)

    async def stop(self) -> None:
        """Stop everything; harmless when repeated."""
        duties, self._duties = self._duties, []
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)
        await asyncio.gather(*(member.stop() for member in self._members.values()))

    async def __aenter__(self) -> ExtensionHost:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def started(self, extension_id: str) -> Member:
        """Return an extension that is started, starting it if need be.

        Raises :class:`NotFound`, or :class:`ExtensionError` with the reason why it is not.
        """
        member = self._member_of(extension_id)
        if member.state != "started":
            if extension_id in self._disabled:
                raise ExtensionError(f"extension {extension_id!r} is disabled")
            if member.may_try_again:
                member = self._renew(member)
            await member.start(live=self._role.live)
        if member.state != "started":
            reason = member.reason or member.state
            raise ExtensionError(f"extension {extension_id!r} is not available: {reason}")
        return member

    async def enable(self, extension_id: str) -> None:
        """Let an extension run in this process, afresh if it had failed or stopped."""
        member = self._renew(self._member_of(extension_id))
        self._disabled.discard(extension_id)
        if self._role.wants(member.manifest):
            await member.start(live=self._role.live)

    async def disable(self, extension_id: str) -> None:
        """Stop an extension in this process; its routes answer 503, its tools are unknown."""
        member = self._member_of(extension_id)
        self._disabled.add(extension_id)
        await member.stop()

    async def reload(self, extension_id: str) -> None:
        """Read a folder's extension anew, and start it if it was started or failed before."""
        member = self._member_of(extension_id)
        anew = loader.discover([member.found.folder], built_in=False, installed=False)
        found = next((one for one in anew if one.id == extension_id and one.manifest), None)
        if found is None:
            await member.stop()
            reasons = [
                one.reason or f"its id is {one.id!r} now; restart to take it in" for one in anew
            ]
            member.fail("; ".join(reasons) or f"there is no {MANIFEST} in {member.found.folder}")
            return
        member = await self._replace(member, found)
        log.info("extension.reloaded", extension=extension_id, state=member.state)

    async def _replace(self, member: Member, found: Found) -> Member:
        """Put an extension made anew in place of one, as far in its life as that was."""
        wanted = member.state in ("started", "failed") or self._role.wants(member.manifest)
        await member.stop()
        member = self._members[found.id] = self._member(found)
        if wanted and found.id not in self._disabled:
            await member.start(live=self._role.live)
        return member

    def manifest(self, extension_id: str) -> Manifest:
        """Return the manifest of an extension; raises :class:`NotFound`."""
        return self._member_of(extension_id).manifest

    def is_pinned(self, extension_id: str) -> bool:
        """Tell whether the environment disables it, whatever is chosen."""
        return extension_id in self._settings.ext_disabled

    def check(self, extension_id: str, chosen: Choice) -> None:
        """Raise :class:`InvalidInput` or :class:`Forbidden` unless it can be configured so."""
        found = self._member_of(extension_id).found
        manifest, given = found.usable, self._options(extension_id)
        if manifest.operator_config:
            where = options.variable(manifest, "KEY")
            raise Forbidden(f"only the environment configures {extension_id!r} ({where})")
        for key in sorted(options.given_by_environment(manifest, given) & chosen.config.keys()):
            where = options.variable(manifest, key)
            raise InvalidInput.at(f"config.{key}", f"the environment sets it ({where})")
        try:
            if chosen.problem:
                raise ExtensionError(chosen.problem)
            options.configuration(manifest, given, self._settings_of(found), chosen.config)
        except ExtensionError as error:
            raise InvalidInput.at("config", error.message) from None

    def describe(self) -> tuple[Description, ...]:
        """Say how every extension fares, also those that can not be used."""
        members = (
            describe(member, enabled=id not in self._disabled)
            for id, member in self._members.items()
        )
        return (*members, *(describe_refused(found) for found in self._refused))

    async def refresh(self) -> None:
        """Take in what was chosen since: what runs, and how it is configured."""
        async with asyncio.timeout(CHOICES_SECONDS):
            choices = await self._backend.choices()
        for id, member in tuple(self._members.items()):
            before, chosen = self._chosen.get(id, Choice()), choices.get(id, Choice())
            self._chosen[id] = chosen
            if replace(before, enabled=None) != replace(chosen, enabled=None):
                log.info("extension.configured", extension=id)
                if member.state != "discovered":
                    await self._replace(member, member.found)
            decided = chosen.enabled is not None and id not in self._settings.ext_disabled
            if decided and chosen.enabled == (id in self._disabled):
                log.info("extension.chosen", extension=id, enabled=chosen.enabled)
                await (self.enable(id) if chosen.enabled else self.disable(id))

    async def _start(self, role: Role) -> None:
        self._role = role
        await self._try_to_refresh()
        if any(not member.home.is_core for member in self._members.values()):
            self._duties.append(asyncio.create_task(self._watch(), name="extensions:watch"))
        await self._start_wanted(role)
        self._duties.append(asyncio.create_task(self._follow(), name="extensions:follow"))
        if self._settings.ext_reload:
            found = (member.found for member in self._members.values())
            changes = Changes({one.id: one.folder for one in found if one.source == "path"})
            reloading = asyncio.create_task(self._reload(changes), name="extensions:reload")
            self._duties.append(reloading)

    async def _start_wanted(self, role: Role) -> None:
        """Start what is wanted; a stranger that takes long comes after the process is there."""
        wanted = [
            member
            for id, member in self._members.items()
            if id not in self._disabled and role.wants(member.manifest)
        ]
        starting = {
            asyncio.create_task(member.start(live=role.live)): member.home.is_core
            for member in wanted
        }
        if starting:
            await asyncio.wait(starting, timeout=self._limits.patience)
            await asyncio.gather(*(task for task, is_core in starting.items() if is_core))
        self._duties += [task for task in starting if not task.done()]

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            await self._try_to_refresh()

    async def _reload(self, changes: Changes) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for id in await asyncio.to_thread(changes.look):
                try:
                    await self.reload(id)
                except Exception:  # the next save may mend it
                    log.exception("extension.not_reloaded", extension=id)

    async def _try_to_refresh(self) -> None:
        try:
            await self.refresh()
        except Exception:
            # Whatever keeps the database from answering: what runs goes on as it is.
            log.exception("extension.choices_unknown")

    async def _watch(self) -> None:
        """End extensions that compute without giving way: the others would starve."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for member in tuple(self._members.values()):
                if member.state in ("loaded", "started") and member.home.runaway():
                    await member.end_runaway()

    def _member_of(self, extension_id: str) -> Member:
        if extension_id not in self._members:
            raise NotFound(f"no extension {extension_id!r}{hint(extension_id, self._members)}")
        return self._members[extension_id]

    def _renew(self, member: Member) -> Member:
        if member.state in ("failed", "stopped"):
            member = self._members[member.found.id] = self._member(member.found)
        return member

    def _add(self, found: Found) -> None:
        """Take in what was found; an operator's word that makes no sense refuses it."""
        if found.manifest is None:
            self._refused.append(found)
            return
        try:
            chosen = options.is_enabled(found.manifest, self._options(found.id))
        except ExtensionError as error:
            self._refused.append(replace(found, manifest=None, reason=error.message))
            return
        self._members[found.id] = self._member(found)
        if not chosen or found.id in self._settings.ext_disabled:
            self._disabled.add(found.id)

    def _member(self, found: Found) -> Member:
        built_in = found.source == "built_in"
        home = CoreHome() if built_in else ThreadHome(found.id)
        return Member(
            found,
            home=home,
            offer=lambda: self._offer(found, home),
            tools=self.tools,
            limits=self._limits,
        )

    def _offer(self, found: Found, home: Home) -> Offer:
        manifest, given = found.usable, self._options(found.id)
        chosen = self._chosen.get(found.id, Choice())
        if chosen.problem:
            raise ExtensionError(chosen.problem)
        return Offer(
            manifest=manifest,
            folder=found.folder,
            home=home,
            allowed=options.allowed(manifest, given),
            config=options.configuration(manifest, given, self._settings_of(found), chosen.config),
            backend=self._backend,
            built_in=found.source == "built_in",
        )

    def _options(self, extension_id: str) -> Mapping[str, str]:
        return self._settings.ext_options.get(extension_id, {})

    def _settings_of(self, found: Found) -> dict[str, Json]:
        """The setting ``http_allow_private`` is ``allow_private`` of the built-in ``http``."""
        if found.source != "built_in":
            return {}
        prefix = f"{found.id}_"
        named = (name for name in Settings.model_fields if name.startswith(prefix))
        values = {name.removeprefix(prefix): getattr(self._settings, name) for name in named}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
