"""``python.call``: a function that is installed beside Ordinaut, without writing an extension.

A function takes and gives JSON. It must be safe to call twice: a worker that dies while it
runs leaves it to the next one.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from ordinaut.plugins.base import (
    Capability,
    Context,
    Extension,
    ExtensionInfo,
    Json,
    ToolError,
    Tools,
    in_process,
)

INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["function"],
    "additionalProperties": False,
    "properties": {
        "function": {"type": "string", "description": "A name of the operator's list."},
        "args": {"type": "array"},
        "kwargs": {"type": "object"},
    },
}


class Python(Extension):
    """Offers the operator's functions to pipelines."""

    def info(self) -> ExtensionInfo:
        return ExtensionInfo("python", "Python functions", "1.0.0")

    def requested_capabilities(self) -> set[Capability]:
        return {Capability.TOOLS}

    def setup(self, *, tool_registry: Tools, context: Context, **_: Any) -> None:
        self._functions: Mapping[str, str] = context["config"]["functions"]
        self._computing: list[str] = context["config"]["in_processes"]
        self._loaded: dict[str, Callable[..., Any]] = {}
        tool_registry.register(
            "python.call",
            self.call,
            input_schema=INPUT_SCHEMA,
            description="Call a Python function of the operator's list.",
            examples=[{"function": "price", "args": ["${params.sku}"], "kwargs": {"vat": True}}],
        )

    async def call(
        self, function: str, args: list[Json] | None = None, kwargs: dict[str, Json] | None = None
    ) -> Json:
        """Call a function and return what it returns; a sync one in a thread or a process."""
        found = await self._function(function)
        positional, named = args or [], kwargs or {}
        try:
            inspect.signature(found).bind(*positional, **named)
        except TypeError as error:
            raise ToolError(f"function {function!r}: {error}", retryable=False) from None
        if inspect.iscoroutinefunction(found):
            return await found(*positional, **named)
        if function in self._computing:
            return await in_process(found, *positional, **named)
        return await asyncio.to_thread(found, *positional, **named)

    async def _function(self, name: str) -> Callable[..., Any]:
        if name not in self._functions:
            known = ", ".join(sorted(self._functions)) or "none"
            raise ToolError(
                f"no function {name!r}; the operator listed: {known} "
                "(ORDINAUT_EXT_PYTHON__FUNCTIONS)",
                retryable=False,
            )
        if name not in self._loaded:
            self._loaded[name] = await asyncio.to_thread(_load, self._functions[name])
        return self._loaded[name]


def _load(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    try:
        found = reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ToolError(f"{place} can not be loaded: {error}", retryable=False) from None
    if not callable(found):
        raise ToolError(f"{place} is not a function", retryable=False)
    return found


def get_extension() -> Extension:
    """Return the extension."""
    return Python()
