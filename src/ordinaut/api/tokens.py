"""Access tokens of our own: made with the first key, read with any of them.

A key says which algorithm it is for; what a token says about itself chooses among the keys by
id and decides nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ordinaut.config import Settings
from ordinaut.errors import InvalidInput, Unauthenticated
from ordinaut.store import agents

ISSUER: Final = "ordinaut"
CLAIMS: Final = ["iss", "aud", "sub", "exp", "iat", "jti"]
MIN_RSA_BITS: Final = 2048
VARIABLE: Final = "ORDINAUT_JWT_KEYS"

_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says, once its signature and times are proved.

    ``subject`` is set instead of ``agent_id`` when another issuer made it.
    """

    agent_id: UUID | None
    jti: UUID
    family: UUID | None
    scopes: frozenset[str] | None
    expires_at: datetime
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One key; ``signing`` is missing when only its public half is known."""

    id: str
    algorithm: str
    verifying: Any
    signing: Any = None


class TokenKeys:
    """The keys by id; the first that can sign does."""

    def __init__(self, settings: Settings) -> None:
        given = settings.jwt_keys
        found = [] if given is None else list(_read(given.get_secret_value()))
        secret = agents.derive(settings, "jwt")
        # Always known, so that tokens made before the first key of one's own run out in peace.
        self._derived = replace(_of_secret(secret), signing=secret)
        found.append(self._derived)
        found += [_of_secret(former) for former in agents.former(settings, "jwt")]
        self._keys: Mapping[str, Key] = {key.id: key for key in found}
        self.current = next(key for key in found if key.signing is not None)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return an access token."""
        key = self.current
        headers = {"kid": key.id, "typ": "at+jwt"}
        return jwt.encode(dict(claims), key.signing, key.algorithm, headers=headers)

    def read(self, token: str, *, now: datetime) -> Claims:
        """Return what a token says; raises :class:`Unauthenticated`."""
        try:
            key = self._key_of(token)
            claims: dict[str, Any] = jwt.decode(
                token,
                key.verifying,
                algorithms=[key.algorithm],
                issuer=ISSUER,
                audience=ISSUER,
                # Times are compared below, with our clock.
                options={"require": CLAIMS, "verify_exp": False, "verify_iat": False},
            )
            read = Claims(
                UUID(claims["sub"]),
                UUID(claims["jti"]),
                UUID(claims["fam"]) if "fam" in claims else None,
                frozenset(str(claims.get("scope", "")).split()),
                datetime.fromtimestamp(claims["exp"], UTC),
            )
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError):
            raise Unauthenticated("the access token is not valid") from None
        if read.expires_at <= now:
            raise Unauthenticated("the access token has expired")
        return read

    def _key_of(self, token: str) -> Key:
        key_id = jwt.get_unverified_header(token).get("kid", "")
        return self._keys.get(key_id, self._derived)


def _of_secret(secret: bytes) -> Key:
    return Key(hashlib.sha256(secret).hexdigest()[:12], "HS256", secret)


def _read(text: str) -> Iterator[Key]:
    blocks = list(_PEM.finditer(text))
    if not blocks:
        raise InvalidInput.at(VARIABLE, "holds no key in PEM form")
    for number, block in enumerate(blocks, 1):
        try:
            yield _key(block[0].encode(), block[1])
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidInput.at(VARIABLE, f"key {number} can not be used: {error}") from None


def _key(pem: bytes, kind: str) -> Key:
    signing: Any = None if kind == "PUBLIC KEY" else load_pem_private_key(pem, password=None)
    verifying: Any = load_pem_public_key(pem) if signing is None else signing.public_key()
    if not isinstance(signing, RSAPrivateKey | Ed25519PrivateKey | None):
        raise ValueError("it is neither RSA nor Ed25519")
    if isinstance(verifying, RSAPublicKey):
        if verifying.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key has at least {MIN_RSA_BITS} bits")
        algorithm = "RS256"
    elif isinstance(verifying, Ed25519PublicKey):
        algorithm = "EdDSA"
    else:
        raise ValueError("it is neither RSA nor Ed25519")
    form = verifying.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(hashlib.sha256(form).hexdigest()[:16], algorithm, verifying, signing)
