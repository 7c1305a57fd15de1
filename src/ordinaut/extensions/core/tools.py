"""``core.log``, ``core.transform``, ``core.sleep`` and ``core.assert``."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from ordinaut.plugins.base import Json, ToolContext, ToolError, Tools, search

MAX_SLEEP_SECONDS = 3600  # a longer wait belongs in wait_for, which holds no worker

_ANY: dict[str, Any] = {}


def register(registry: Tools) -> None:
    """Offer the tools of this module."""
    registry.register(
        "core.log",
        log,
        description="Write a message to the log of the run; the output is the message.",
        input_schema=_object(
            {
                "message": {"description": "Text, or any value, which is then shown as JSON."},
                "level": {"enum": ["debug", "info", "warning", "error"], "default": "info"},
            },
            required=["message"],
        ),
        examples=[{"message": "hello ${params.name}"}],
    )
    registry.register(
        "core.transform",
        transform,
        description="Return the value, or what a JMESPath expression finds in it.",
        input_schema=_object(
            {"value": _ANY, "expression": {"type": "string", "minLength": 1}}, required=["value"]
        ),
        effect="pure",
        examples=[{"value": "${steps.fetch.json}", "expression": "items[?price > `10`].name"}],
    )
    registry.register(
        "core.sleep",
        sleep,
        description="Wait. Longer waits belong in wait_for, which holds no worker.",
        input_schema=_object(
            {"seconds": {"type": "number", "minimum": 0, "maximum": MAX_SLEEP_SECONDS}},
            required=["seconds"],
        ),
        examples=[{"seconds": 0.5}],
    )
    registry.register(
        "core.assert",
        check,
        description="Fail the run unless the condition holds; null, false and empty do not hold.",
        input_schema=_object(
            {"condition": _ANY, "message": {"type": "string"}}, required=["condition"]
        ),
        effect="pure",
        examples=[{"condition": "${steps.fetch.status == `200`}", "message": "the site is down"}],
    )


async def log(
    message: Json,
    level: Literal["debug", "info", "warning", "error"] = "info",
    *,
    context: ToolContext,
) -> Json:
    text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    context.log(level, text)
    return {"message": message, "level": level}


async def transform(value: Json, expression: str | None = None) -> Json:
    return value if expression is None else search(expression, value)


async def sleep(seconds: float) -> Json:
    await asyncio.sleep(seconds)
    return {"seconds": seconds}


async def check(condition: Json, message: str = "the assertion does not hold") -> Json:
    if condition is None or condition is False or condition in ("", [], {}):
        raise ToolError(message, retryable=False, details={"condition": condition})
    return {"condition": condition}


def _object(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
