"""Signing in and out: keys are exchanged for tokens, tokens are renewed and ended."""

from __future__ import annotations

from fastapi import Request, status

from ordinaut.api.dependencies import Anyone, Parts, origin
from ordinaut.api.routing import router
from ordinaut.api.schemas.agents import (
    KeyExchange,
    Me,
    RefreshExchange,
    Revocation,
    TokensOut,
)

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
