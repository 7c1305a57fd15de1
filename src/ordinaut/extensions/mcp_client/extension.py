"""``mcp.<server>.<tool>``: the tools of other MCP servers; off until the operator names some."""

from __future__ import annotations

import asyncio
from typing import Any

from ordinaut.extensions.mcp_client.connection import Connection, Server
from ordinaut.plugins.base import Capability, Context, Extension, ExtensionInfo, Tools


class McpClient(Extension):
    """Keeps a connection to each server while it is started."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("mcp_client", "MCP client", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.TOOLS}

    def setup(self, *, tool_registry: Tools, context: Context, **_: Any) -> None:
        config = context["config"]
        self._connections = [
            Connection(
                Server(name, **given), tool_registry, refresh_seconds=config["refresh_seconds"]
            )
            for name, given in config["servers"].items()
        ]

    async def on_startup(self, app: object) -> None:
        for connection in self._connections:
            connection.start()
        # A pipeline that is stored right after the start finds its tools; a server that is away
        # delays nobody for long.
        await asyncio.gather(*(one.first_listing() for one in self._connections))

    async def on_shutdown(self, app: object) -> None:
        for connection in self._connections:
            await connection.close()


def get_extension() -> Extension:
    """Return the extension."""
    return McpClient()
