"""``/signin``: the page on which a person signs in with an API key, and out again."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from ordinaut.api.browser import SIGN_IN, safe_path
from ordinaut.api.docs import CONTENT_SECURITY_POLICY

PLACE: Final = "{{next}}"
FILES: Final = {
    f"{SIGN_IN}/signin.js": ("signin.js", "text/javascript"),
    f"{SIGN_IN}/signin.css": ("signin.css", "text/css"),
}


def install(app: FastAPI) -> None:
    """Serve the page and its two files."""
    app.add_route(SIGN_IN, _page, include_in_schema=False)
    for path in FILES:
        app.add_route(path, _file, include_in_schema=False)


async def _page(request: Request) -> Response:
    wanted = safe_path(request.query_params.get("next", ""))
    page = _read("signin.html").replace(PLACE, escape(wanted))
    return _closed(page, "text/html")


async def _file(request: Request) -> Response:
    name, media_type = FILES[request.url.path.rstrip("/")]
    return _closed(_read(name), media_type)


def _read(name: str) -> str:
    return resources.files("ordinaut.api").joinpath(f"static/{name}").read_text()


def _closed(content: str, media_type: str) -> Response:
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return Response(content, media_type=media_type, headers=headers)
