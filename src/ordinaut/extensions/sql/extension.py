"""``sql.query`` and ``sql.execute``."""

from __future__ import annotations

from typing import Any

from ordinaut.extensions.sql.databases import (
    CHANGE_SCHEMA,
    EXECUTE_SCHEMA,
    QUERY_SCHEMA,
    ROWS_SCHEMA,
    Databases,
)
from ordinaut.plugins.base import Capability, Context, Extension, ExtensionInfo, Tools


class Sql(Extension):
    """Keeps a pool of connections to each database that is used."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("sql", "SQL", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.TOOLS}

    def setup(self, *, tool_registry: Tools, context: Context, **_: Any) -> None:
        config = context["config"]
        self._databases = Databases(config["databases"], pool_size=config["pool_size"])
        tool_registry.register(
            "sql.query",
            self._databases.query,
            input_schema=QUERY_SCHEMA,
            output_schema=ROWS_SCHEMA,
            description="Ask a database in a read-only transaction.",
            examples=[
                {
                    "database": "shop",
                    "query": "SELECT id, total FROM orders WHERE paid_at > %(since)s",
                    "params": {"since": "${now-24h}"},
                }
            ],
        )
        tool_registry.register(
            "sql.execute",
            self._databases.execute,
            input_schema=EXECUTE_SCHEMA,
            output_schema=CHANGE_SCHEMA,
            description="Change a database by one statement, in a transaction of its own.",
            effect="at_most_once",
            examples=[
                {
                    "database": "shop",
                    "statement": "DELETE FROM cart WHERE touched_at < %(before)s",
                    "params": {"before": "${now-30d}"},
                }
            ],
        )

    async def on_shutdown(self, app: object) -> None:
        await self._databases.close()


def get_extension() -> Extension:
    """Return the extension."""
    return Sql()
