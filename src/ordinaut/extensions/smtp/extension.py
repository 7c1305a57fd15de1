"""``smtp.send``."""

from __future__ import annotations

from typing import Any

from ordinaut.extensions.smtp.mail import INPUT_SCHEMA, OUTPUT_SCHEMA, MailServer
from ordinaut.plugins.base import Capability, Context, Extension, ExtensionInfo, Tools


class Smtp(Extension):
    """Offers the operator's mail server to pipelines."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("smtp", "Mail", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.TOOLS}

    def setup(self, *, tool_registry: Tools, context: Context, **_: Any) -> None:
        tool_registry.register(
            "smtp.send",
            MailServer(**context["config"]).send,
            input_schema=INPUT_SCHEMA,
            output_schema=OUTPUT_SCHEMA,
            description="Send a mail; the output says which recipients were refused.",
            effect="at_most_once",
            examples=[
                {
                    "to": ["ana@example.com"],
                    "subject": "Report of ${now}",
                    "text": "${steps.report}",
                }
            ],
        )


def get_extension() -> Extension:
    """Return the extension."""
    return Smtp()
