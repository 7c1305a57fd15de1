"""``shell.run``: off until the operator enables it and lists what may be run."""

from __future__ import annotations

from typing import Any

from ordinaut.extensions.shell.programs import INPUT_SCHEMA, OUTPUT_SCHEMA, Programs
from ordinaut.plugins.base import Capability, Context, Extension, ExtensionInfo, Tools


class Shell(Extension):
    """Offers the operator's programs to pipelines."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("shell", "Commands", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.TOOLS}

    def setup(self, *, tool_registry: Tools, context: Context, **_: Any) -> None:
        tool_registry.register(
            "shell.run",
            Programs(**context["config"]).run,
            input_schema=INPUT_SCHEMA,
            output_schema=OUTPUT_SCHEMA,
            description="Run a program of the operator's list; no shell reads its arguments.",
            effect="at_most_once",
            examples=[{"command": "backup", "args": ["--day", "${now}"]}],
        )


def get_extension() -> Extension:
    """Return the extension."""
    return Shell()
