"""From the tools that a server lists to tools of pipelines."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp.types import Tool as Listed

from ordinaut.plugins.base import Effect, Json, OrdinautError, ToolContext, Tools, logger

_UNUSABLE = re.compile(r"[^A-Za-z0-9_.-]|\.(?=\.|\Z)|^\.")

Call = Callable[[str, Effect, dict[str, Json], ToolContext], Awaitable[Json]]

log = logger("ordinaut.ext.mcp_client")


@dataclass(frozen=True, slots=True)
class Entry:
    """A tool as it is registered; equal entries need not be registered again."""

    name: str
    listed: str
    description: str
    input_schema: Json
    output_schema: Json
    effect: Effect


class Catalogue:
    """The tools of one server in the registry, kept as the server lists them."""

    def __init__(
        self,
        server: str,
        registry: Tools,
        call: Call,
        *,
        effects: Mapping[str, Effect],
        seconds: float,
    ) -> None:
        self._server = server
        self._registry = registry
        self._call = call
        self._effects = effects
        self._seconds = seconds
        self._entries: dict[str, Entry] = {}

    def update(self, listed: Sequence[Listed]) -> None:
        """Register what is new or was changed, and take away what is gone."""
        wanted: dict[str, Entry] = {}
        for tool in listed:
            entry = self._entry(tool)
            if wanted.setdefault(entry.name, entry) is not entry:
                log.warning("mcp.name_taken", server=self._server, tool=tool.name, name=entry.name)
        for name, entry in list(self._entries.items()):
            if wanted.get(name) != entry:
                self._registry.unregister(name)
                del self._entries[name]
        for name in wanted.keys() - self._entries.keys():
            self._register(wanted[name])

    def _entry(self, tool: Listed) -> Entry:
        return Entry(
            name=f"mcp.{self._server}.{_UNUSABLE.sub('_', tool.name)}",
            listed=tool.name,
            description=tool.description or tool.title or "",
            input_schema=tool.input_schema,
            output_schema=tool.output_schema,
            effect=self._effects.get(tool.name) or _effect(tool),
        )

    def _register(self, entry: Entry) -> None:
        async def call(arguments: dict[str, Json], *, context: ToolContext) -> Json:
            return await self._call(entry.listed, entry.effect, arguments, context)

        try:
            self._registry.register(
                entry.name,
                call,
                input_schema=entry.input_schema,
                output_schema=entry.output_schema,
                description=entry.description,
                effect=entry.effect,
                timeout=self._seconds,
            )
        except OrdinautError as error:
            # A name that is too long, a schema that refers to another document: one tool less.
            log.warning("mcp.tool_unusable", tool=entry.name, reason=error.message)
        self._entries[entry.name] = entry


def _effect(tool: Listed) -> Effect:
    """Read the hints of a server; what says nothing may do harm when it is called twice."""
    hints = tool.annotations
    if hints is not None and (hints.read_only_hint or hints.idempotent_hint):
        return "idempotent"
    return "at_most_once"


def output_of(structured: Any, content: Sequence[Any]) -> Json:
    """Return the output of a step: what is structured, else the text and all blocks."""
    if structured is not None:
        return structured
    blocks = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in content]
    return {"text": text_of(content), "content": blocks}


def text_of(content: Sequence[Any]) -> str:
    """Return the text blocks of an answer, one below the other."""
    return "\n".join(block.text for block in content if block.type == "text")
