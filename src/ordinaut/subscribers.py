"""Who listens to the streams, how far behind they are, and the letters that nobody could read.

A group that listens to a stream has a *lag*, of messages that none of its consumers was given,
and *pending* ones that were given and not acknowledged. A consumer that holds such and has not
been heard of for ``DEAD_AFTER`` is dead: the next one of its group takes them over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ordinaut.bus import DEAD, EVENTS, FAMILY, REDELIVERED_TO, Bus, Entry, Message
from ordinaut.errors import Conflict, InvalidInput

DEAD_AFTER: Final = 120.0  # seconds
ADDED: Final = ("error", "group", REDELIVERED_TO)  # to a message when it was buried


@dataclass(frozen=True, slots=True)
class Member:
    """A consumer of a group; ``idle_seconds`` is since it was last heard of."""

    name: str
    pending: int
    idle_seconds: float
    dead: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Who listens to a stream together. A ``lag`` of None says that Redis does not know it."""

    stream: str
    group: str
    lag: int | None
    pending: int
    consumers: list[Member]


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream, its groups, and how many dead letters of all of them lie beside it."""

    stream: str
    length: int
    dead_letters: int
    groups: list[Group]


async def overview(bus: Bus, *, dead_after: float = DEAD_AFTER) -> list[Stream]:
    """Return all streams; ``dead_after`` is in seconds.

    Raises :class:`~ordinaut.errors.Unavailable` without Redis.
    """
    found = []
    names = await bus.streams()
    # Of a stream that is gone the letters may still be there.
    for name in sorted({name.removesuffix(DEAD) for name in names}):
        groups = [
            await _group(bus, name, told, dead_after=dead_after)
            for told in await _groups(bus, name, names)
        ]
        dead = await bus.length(name + DEAD)
        found.append(Stream(name, await bus.length(name), dead, groups))
    return found


async def groups(bus: Bus) -> Counter[str]:
    """Return how many groups listen to each stream.

    Raises :class:`~ordinaut.errors.Unavailable` without Redis.
    """
    return Counter({name: len(await bus.groups(name)) for name in await bus.streams()})


async def letters(bus: Bus, stream: str, *, before: str | None, limit: int) -> list[Message]:
    """Return the dead letters of a stream, the newest first."""
    return await bus.newest(_checked(stream) + DEAD, before=before, limit=limit)


async def redeliver(bus: Bus, stream: str, ids: Sequence[str]) -> int:
    """Give dead letters to their groups once more; return how many there were.

    Raises :class:`~ordinaut.errors.Conflict` when a group does not exist any more. A letter
    goes out before it is taken away: who dies in between delivers it twice, not never.
    """
    found = await bus.pick(_checked(stream) + DEAD, ids)
    known = {told["name"] for told in await _groups(bus, stream, await bus.streams())}
    lost = sorted({one.fields.get("group", "") for one in found} - known)
    if lost:
        raise Conflict(f"nobody listens to {stream} as {', '.join(lost)} any more")
    for one in found:
        fields = {name: value for name, value in one.fields.items() if name not in ADDED}
        await bus.put(Entry(stream, {**fields, REDELIVERED_TO: one.fields["group"]}))
        await bus.remove(stream + DEAD, [one.id])
    return len(found)


async def drop(bus: Bus, stream: str, ids: Sequence[str]) -> int:
    """Forget dead letters; return how many there were."""
    return await bus.remove(_checked(stream) + DEAD, ids)


def _checked(stream: str) -> str:
    if stream != EVENTS and not stream.startswith(f"{FAMILY}ext:"):
        raise InvalidInput.at("stream", f"{EVENTS}, or {FAMILY}ext:<id>:<name>")
    return stream


async def _groups(bus: Bus, stream: str, names: Sequence[str]) -> Sequence[Any]:
    return await bus.groups(stream) if stream in names else ()


async def _group(bus: Bus, stream: str, told: Any, *, dead_after: float) -> Group:
    members = [
        Member(
            one["name"],
            one["pending"],
            one["idle"] / 1_000,
            bool(one["pending"]) and one["idle"] / 1_000 >= dead_after,
        )
        for one in await bus.consumers(stream, told["name"])
    ]
    return Group(stream, told["name"], told.get("lag"), told["pending"], members)
