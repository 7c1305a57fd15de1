"""``ray.run`` and ``ray.map``: off until the operator enables it; needs the extra ``ray``."""

from __future__ import annotations

from typing import Any

from ordinaut.extensions.ray.cluster import MAP_SCHEMA, RUN_SCHEMA, Cluster
from ordinaut.plugins.base import Capability, Context, Extension, ExtensionInfo, Tools


class Ray(Extension):
    """Connects to the cluster when it is first used."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("ray", "Ray", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.TOOLS}

    def setup(self, *, tool_registry: Tools, context: Context, **_: Any) -> None:
        self._cluster = Cluster(**context["config"])
        tool_registry.register(
            "ray.run",
            self._cluster.run,
            input_schema=RUN_SCHEMA,
            description="Run a function of the operator's list on the Ray cluster.",
            examples=[{"function": "train", "kwargs": {"day": "${now}"}, "num_gpus": 1}],
        )
        tool_registry.register(
            "ray.map",
            self._cluster.map,
            input_schema=MAP_SCHEMA,
            description="Run a function for each item on the Ray cluster; the output is the list.",
            examples=[{"function": "score", "items": "${steps.list.items}", "max_parallel": 50}],
        )

    async def on_shutdown(self, app: object) -> None:
        await self._cluster.close()


def get_extension() -> Extension:
    """Return the extension."""
    return Ray()
