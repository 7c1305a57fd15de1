"""What a browser sends and is sent: the session cookie, proof of the same origin, paths to go to.

The cookie is named ``__Host-…`` and is ``Secure``: no other host and no plain connection can set
or see it. Browsers refuse that without TLS, so on this machine alone, over plain HTTP, it has
another name. ``SameSite=Strict`` is enough for pages of extensions as well: who comes from another
site is led to the sign-in page, which finds the session and goes on.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlsplit

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from ordinaut.errors import CrossSite, Unauthenticated

COOKIE: Final = "__Host-ordinaut_session"
PLAIN_COOKIE: Final = "ordinaut_session"
CSRF_HEADER: Final = "x-csrf-token"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
SIGN_IN: Final = "/signin"
PAGES: Final = "/ext/"  # where pages are that a person opens
MAX_PATH: Final = 2000

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def cookie(request: Request) -> str:
    """Return the value of the session cookie, or nothing when the request does not count on it.

    Raises :class:`Unauthenticated` when there are two: one of them was slipped in.
    """
    if "authorization" in request.headers:
        return ""
    wanted = f"{_name(request)}="
    parts = (part.strip() for line in request.headers.getlist("cookie") for part in line.split(";"))
    found = {part.removeprefix(wanted) for part in parts if part.startswith(wanted)}
    if len(found) > 1:
        raise Unauthenticated("there are two session cookies")
    return found.pop() if found else ""


def keep(request: Request, response: Response, value: str, *, seconds: int) -> None:
    """Let the browser keep a session for ``seconds``."""
    name = _name(request)
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path="/",
        secure=name == COOKIE,
        httponly=True,
        samesite="strict",
    )


def drop(request: Request, response: Response) -> None:
    """Let the browser forget its session."""
    keep(request, response, "", seconds=0)


def check_origin(request: Request) -> None:
    """Raise :class:`CrossSite` when a page of another origin made the request."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    # The proxy may end TLS without saying so; a page without TLS is none of ours behind one.
    own = (f"{scheme}://{host}".lower() for scheme in {request.url.scheme, "https"})
    if site != "same-origin" or (origin is not None and origin.lower() not in own):
        raise CrossSite(f"the request comes from {origin or 'another site'}, not from {host}")


def safe_path(text: str) -> str:
    """Return ``text`` when it is a path on this host, and nothing otherwise."""
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > MAX_PATH:
        return ""
    if not text.startswith("/") or text.startswith("//") or "\\" in text:
        return ""
    parts = urlsplit(text)
    return "" if parts.scheme or parts.netloc else text


def way_to_sign_in(request: Request) -> Response | None:
    """Return what leads a person who opens a page to the sign-in page; ``None`` for others."""
    wants_page = "text/html" in request.headers.get("accept", "")
    path, query = request.scope["path"], request.scope["query_string"].decode("latin-1")
    if request.method != "GET" or not wants_page or "authorization" in request.headers:
        return None
    if not path.startswith(PAGES):
        return None
    back = safe_path(quote(path) + (f"?{query}" if query else ""))
    answer = RedirectResponse(f"{SIGN_IN}?next={quote(back, safe='/')}", HTTPStatus.SEE_OTHER)
    # A good one is not sent with links of other sites, and must stay.
    if _name(request) in request.headers.get("cookie", ""):
        drop(request, answer)
    return answer


def _name(request: Request) -> str:
    if request.url.scheme == "http" and request.url.hostname in _LOOPBACK:
        return PLAIN_COOKIE
    return COOKIE
