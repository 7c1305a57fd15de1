"""Answers that are written straight from stored values.

FastAPI would validate and convert each of them once more, which costs as much as the rest of a
request; that they fit the documented models is a test's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response

from ordinaut.api.json import dumps


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Write ``value`` as JSON."""
    return Response(dumps(value), status, headers, media_type="application/json")


def page(items: Sequence[Any], next_cursor: str | None = None) -> Response:
    """Write a page of a list."""
    return answer({"items": items, "next_cursor": next_cursor})
