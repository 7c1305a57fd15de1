"""``http.request``: the tool that most pipelines are made of."""

from __future__ import annotations

from typing import Any

from ordinaut.extensions.http.request import Requests
from ordinaut.extensions.http.schema import INPUT_SCHEMA, OUTPUT_SCHEMA
from ordinaut.guard import Policy
from ordinaut.plugins.base import Capability, Context, Extension, ExtensionInfo, Tools


class Http(Extension):
    """Keeps one client for all calls, so that connections are used again."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("http", "HTTP", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.TOOLS}

    def setup(self, *, tool_registry: Tools, context: Context, **_: Any) -> None:
        config = context["config"]
        policy = Policy.of(private=config["allow_private"], hosts=config["allow_hosts"])
        self._requests = Requests(policy, max_answer_bytes=config["max_answer_bytes"])
        tool_registry.register(
            "http.request",
            self._requests.request,
            input_schema=INPUT_SCHEMA,
            output_schema=OUTPUT_SCHEMA,
            description="Call an HTTP service; an answer of 400 or above fails the step.",
            examples=[
                {"url": "https://example.com/api", "query": {"page": 1}},
                {"method": "POST", "url": "https://example.com/api", "json": {"a": 1}},
            ],
        )

    async def on_startup(self, app: object) -> None:
        self._requests.open()

    async def on_shutdown(self, app: object) -> None:
        await self._requests.close()


def get_extension() -> Extension:
    """Return the extension."""
    return Http()
