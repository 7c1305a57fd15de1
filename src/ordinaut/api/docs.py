"""``/docs``: the API's description as a page of our own, without anything from elsewhere."""

from __future__ import annotations

from importlib import resources
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES: Final = {
    "/docs": ("docs.html", "text/html"),
    "/docs/docs.js": ("docs.js", "text/javascript"),
    "/docs/docs.css": ("docs.css", "text/css"),
}


def install(app: FastAPI) -> None:
    """Serve the page and its two files."""
    for path in FILES:
        app.add_route(path, _serve, include_in_schema=False)


async def _serve(request: Request) -> Response:
    name, media_type = FILES[request.url.path.rstrip("/")]
    content = resources.files("ordinaut.api").joinpath(f"static/{name}").read_bytes()
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return Response(content, media_type=media_type, headers=headers)
