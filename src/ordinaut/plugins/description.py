"""How an extension fares, as ``GET /extensions`` and ``ordinaut ext list`` show it."""

from __future__ import annotations

from dataclasses import dataclass

from ordinaut.model import Json
from ordinaut.plugins.base import Capability
from ordinaut.plugins.kit import MOUNT
from ordinaut.plugins.loader import Found
from ordinaut.plugins.member import Member, State


@dataclass(frozen=True, slots=True)
class Description:
    """One extension as ``GET /extensions`` shows it."""

    id: str
    name: str
    version: str
    description: str
    source: str
    enabled: bool
    eager: bool
    state: State
    reason: str
    grants: tuple[str, ...]
    mount_path: str
    load_seconds: float | None
    start_seconds: float | None
    tools: tuple[str, ...]
    background: tuple[dict[str, Json], ...]
    subscriptions: tuple[dict[str, Json], ...]


def describe(member: Member, *, enabled: bool) -> Description:
    """Describe an extension whose manifest could be read."""
    manifest, kit = member.found.usable, member.kit
    supervised = kit.background.tasks if kit is not None and kit.background is not None else ()
    listening = kit.events.subscriptions if kit is not None and kit.events is not None else ()
    return Description(
        id=manifest.id,
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        source=member.found.source,
        enabled=enabled,
        eager=manifest.eager,
        state=member.state,
        reason=member.reason,
        grants=tuple(sorted(grant.name for grant in _grants(member))),
        mount_path=f"{MOUNT}/{manifest.id}",
        load_seconds=member.seconds.get("load"),
        start_seconds=member.seconds.get("start"),
        tools=member.tool_names,
        background=tuple(task.describe() for task in supervised),
        subscriptions=tuple(one.describe() for one in listening),
    )


def describe_refused(found: Found) -> Description:
    """Describe what was found but can not be used."""
    return Description(
        id=found.id,
        name="",
        version="",
        description="",
        source=found.source,
        enabled=False,
        eager=False,
        state="failed",
        reason=found.reason,
        grants=(),
        mount_path="",
        load_seconds=None,
        start_seconds=None,
        tools=(),
        background=(),
        subscriptions=(),
    )


def _grants(member: Member) -> frozenset[Capability]:
    """What was granted; before it is loaded, what the manifest would let it have."""
    if member.kit is not None:
        return member.kit.grants
    return member.manifest.grants if member.state == "discovered" else frozenset()
