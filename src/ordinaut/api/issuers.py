"""Access tokens that others made: issuers with their keys at an address (OIDC, JWKS).

Which issuers, audience and algorithms count stands in the settings. Keys are fetched when a
token names one that is not known, at most every ``COOL_DOWN`` seconds whatever tokens say.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import jwt
from jwt import PyJWKClient
from jwt.exceptions import PyJWKClientConnectionError

from ordinaut.api.tokens import Claims
from ordinaut.config import Issuer
from ordinaut.errors import Unauthenticated, Unavailable

KEPT: Final = 300  # seconds that fetched keys are kept
COOL_DOWN: Final = 10.0  # seconds between two fetches because of a key that is not known
FETCH_TIMEOUT: Final = 5.0  # seconds
AWAY: Final = 5.0  # seconds in which an address is not asked again after it did not answer
LEEWAY: Final = timedelta(seconds=10)  # between the clock of an issuer and ours
CLAIMS: Final = ["iss", "aud", "sub", "exp", "iat"]


class Issuers:
    """Reads the tokens of the issuers that are known."""

    def __init__(self, known: Iterable[Issuer]) -> None:
        self._known = {one.issuer: _Keys(one) for one in known}

    async def read(self, token: str, *, now: datetime) -> Claims | None:
        """Return what a token says; ``None`` when it is of nobody that is known here.

        Raises :class:`Unauthenticated` for a bad one, :class:`Unavailable` without the keys.
        """
        if not self._known:
            return None
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except (jwt.PyJWTError, ValueError):
            return None
        keys = self._known.get(issuer) if isinstance(issuer, str) else None
        return None if keys is None else _checked(await keys.decode(token), token, now)


class _Keys:
    """One issuer."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._client = PyJWKClient(
            issuer.jwks_uri, lifespan=KEPT, timeout=FETCH_TIMEOUT, cooldown_duration=COOL_DOWN
        )
        self._fetching = asyncio.Lock()
        self._away_until = 0.0

    async def decode(self, token: str) -> dict[str, Any]:
        issuer = self._issuer
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
            if algorithm not in issuer.algorithms:  # before anything is fetched for it
                raise jwt.InvalidAlgorithmError(algorithm)
            key = await self._key(token)
            found: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(issuer.algorithms),
                issuer=issuer.issuer,
                audience=issuer.audience,
                options={
                    "require": CLAIMS,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except PyJWKClientConnectionError:
            raise Unavailable(f"the keys of {issuer.issuer} can not be fetched") from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise Unauthenticated("the access token is not valid") from None
        return found

    async def _key(self, token: str) -> Any:
        loop = asyncio.get_running_loop()
        async with self._fetching:
            if loop.time() < self._away_until:
                raise PyJWKClientConnectionError("away")
            try:
                # It fetches with urllib, in a thread that is ours alone while we hold the lock.
                return await asyncio.to_thread(self._client.get_signing_key_from_jwt, token)
            except PyJWKClientConnectionError:
                self._away_until = loop.time() + AWAY
                raise


def _checked(claims: dict[str, Any], token: str, now: datetime) -> Claims:
    try:
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        begins_at = datetime.fromtimestamp(claims.get("nbf", claims["iat"]), UTC)
        subject = f"{claims['iss']}|{claims['sub']}"
    except (ValueError, TypeError, OverflowError):
        raise Unauthenticated("the access token is not valid") from None
    if expires_at + LEEWAY <= now:
        raise Unauthenticated("the access token has expired")
    if begins_at - LEEWAY > now:
        raise Unauthenticated("the access token is not valid yet")
    # What it calls itself need be unique among its issuer's tokens only, if it says it at all.
    jti = UUID(bytes=hashlib.sha256(token.encode()).digest()[:16])
    return Claims(None, jti, None, None, expires_at, subject)
