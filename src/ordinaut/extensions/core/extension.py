"""The tools that every pipeline has: log, transform, sleep, assert, and doors to the core."""

from __future__ import annotations

from typing import Any

from ordinaut.extensions.core import doors, tools
from ordinaut.plugins.base import Capability, Context, Extension, ExtensionInfo, Tools


class Core(Extension):
    """Registers what is in :mod:`.tools` and :mod:`.doors`."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("core", "Core tools", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.TOOLS}

    def setup(self, *, tool_registry: Tools, context: Context, **_: Any) -> None:
        tools.register(tool_registry)
        doors.register(tool_registry, context.get("services"))


def get_extension() -> Extension:
    """Return the extension."""
    return Core()
