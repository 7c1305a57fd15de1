"""Signing in and out: keys are exchanged for tokens or sessions, which are renewed and ended."""

from __future__ import annotations

from fastapi import Request, Response, status

from ordinaut.api import browser
from ordinaut.api.dependencies import SESSION, Anyone, Parts, origin
from ordinaut.api.routing import router
from ordinaut.api.schemas.agents import (
    KeyExchange,
    Me,
    RefreshExchange,
    Revocation,
    SessionOut,
    TokensOut,
)
from ordinaut.api.sessions import Sessions
from ordinaut.errors import NotFound
from ordinaut.store.sessions import Session

routes = router("/auth", "auth")


@routes.post("/token")
async def token(body: KeyExchange, parts: Parts, request: Request) -> TokensOut:
    """Exchange an API key for an access token and a refresh token."""
    made = await parts.auth.exchange(body.api_key, origin=origin(request))
    return TokensOut.model_validate(made)


@routes.post("/refresh")
async def refresh(body: RefreshExchange, parts: Parts, request: Request) -> TokensOut:
    """Exchange a refresh token, once, for new tokens; a second use revokes all of its family."""
    made = await parts.auth.refresh(body.refresh_token, origin=origin(request))
    return TokensOut.model_validate(made)


@routes.post("/revoke", status_code=status.HTTP_204_NO_CONTENT)
async def revoke(body: Revocation, work: Anyone) -> None:
    """End an access token, or a refresh token with all that was made from it."""
    owner = None if work.agent.may("admin") else work.agent.id
    await work.parts.auth.revoke(body.token, owner=owner, origin=work.actor)


@routes.get("/me")
async def me(work: Anyone) -> Me:
    """Say who the credential belongs to and what it may do."""
    return Me(id=work.agent.id, name=work.agent.name, scopes=sorted(work.agent.scopes))


@routes.post("/session")
async def sign_in(
    body: KeyExchange, parts: Parts, request: Request, response: Response
) -> SessionOut:
    """Sign a browser in: the answer sets a cookie, and holds what unsafe requests need besides."""
    browser.check_origin(request)
    sessions = parts.auth.sessions
    former = browser.cookie(request)
    begun = await sessions.begin(body.api_key, former=former, origin=origin(request))
    seconds = parts.settings.browser_session_seconds
    browser.keep(request, response, begun.value, seconds=seconds)
    return _session(sessions, begun.session)


@routes.get("/session")
async def session(work: Anyone, request: Request) -> SessionOut:
    """Say who is signed in with this browser, and the token that unsafe requests need."""
    return _session(work.parts.auth.sessions, _session_of(request))


@routes.delete("/session", status_code=status.HTTP_204_NO_CONTENT)
async def sign_out(work: Anyone, request: Request, response: Response) -> None:
    """Sign this browser out."""
    await work.parts.auth.sessions.end(_session_of(request), actor=work.actor)
    browser.drop(request, response)


def _session_of(request: Request) -> Session:
    found: Session | None = request.scope.get(SESSION)
    if found is None:
        raise NotFound("the request has an Authorization header, and so no session")
    return found


def _session(sessions: Sessions, found: Session) -> SessionOut:
    agent = found.agent
    return SessionOut(
        id=agent.id,
        name=agent.name,
        scopes=sorted(agent.scopes),
        csrf_token=sessions.token(found),
        expires_at=found.expires_at,
    )
