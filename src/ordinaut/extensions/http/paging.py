"""Page after page of a list, as one answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import httpx2

from ordinaut.extensions.http.schema import DEFAULT_PAGES
from ordinaut.plugins.base import Json, ToolContext, ToolError, search

Call: TypeAlias = Callable[[dict[str, Json], ToolContext, int], Awaitable[dict[str, Json]]]


async def collect(call: Call, arguments: dict[str, Json], context: ToolContext) -> Json:
    """Return the last page's status and headers with the ``items`` of all pages."""
    rule = arguments["paginate"]
    most = rule.get("max_pages", DEFAULT_PAGES)
    items: list[Json] = []
    elapsed = 0.0
    asked: dict[str, Json] | None = arguments
    pages = 0
    while asked is not None and pages < most:
        pages += 1
        page = await call(asked, context, pages)
        items += _items(page, rule["items"])
        elapsed += page["elapsed_ms"]
        context.progress(pages / most, f"{len(items)} items of {pages} pages")
        asked = _following(page, asked)
    return {
        "status": page["status"],
        "headers": page["headers"],
        "items": items,
        "pages": pages,
        "truncated": asked is not None,
        "elapsed_ms": round(elapsed, 3),
    }


def _items(page: dict[str, Json], expression: str) -> list[Json]:
    found = search(expression, page.get("json"))
    if found is None:
        return []
    if not isinstance(found, list):
        raise ToolError(f"paginate.items: {expression!r} does not yield a list", retryable=False)
    return found


def _following(page: dict[str, Json], asked: dict[str, Json]) -> dict[str, Json] | None:
    """Return the arguments of the next page, or ``None`` after the last one."""
    rule = asked["paginate"]
    links = httpx2.Response(200, headers=page["headers"]).links
    shown = {
        "json": page.get("json"),
        "headers": page["headers"],
        "links": {name: link.get("url") for name, link in links.items()},
    }
    found = search(rule["next"], shown)
    if found is None or found == "":
        return None
    if "param" in rule:
        return {**asked, "query": {**asked.get("query", {}), rule["param"]: found}}
    here = httpx2.URL(asked["url"])
    there = here.join(str(found))
    if (there.scheme, there.host, there.port) != (here.scheme, here.host, here.port):
        # The next request would carry the credentials of this one.
        raise ToolError(f"the next page lies on another host: {there.host}", retryable=False)
    return {**asked, "url": str(there), "query": {}}
