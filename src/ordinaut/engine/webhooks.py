"""Webhooks as https://www.standardwebhooks.com describes them: signatures, and when to try again.

A signature is over ``id.timestamp.body``. With several secrets there are several signatures,
with spaces between them, so a receiver may change its secret at any time while both are good.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"

# How long after each failed attempt the next one comes.
SCHEDULE: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    *(timedelta(hours=hours) for hours in (2, 5, 10, 14, 20, 24)),
)
JITTER: Final = 0.2  # the greatest part that is added, so that what failed together parts


def secret_of(key: bytes) -> str:
    """Return how a key is written for people: ``whsec_`` and Base64."""
    return PREFIX + base64.b64encode(key).decode()


def signatures(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature``; ``timestamp`` is in seconds since 1970."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(_signature(secret, content) for secret in secrets)


def headers(
    secrets: Sequence[str], message_id: str, body: bytes, *, at: datetime
) -> dict[str, str]:
    """Return the headers of an attempt that is made at this instant."""
    timestamp = int(at.timestamp())
    return {
        "content-type": CONTENT_TYPE,
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signatures(secrets, message_id, timestamp, body),
    }


def pause_after(attempts: int, *, spread: float) -> timedelta | None:
    """Return how long to wait after so many failed attempts; None when that was the last.

    ``spread`` is a random number from 0 to 1.
    """
    if attempts > len(SCHEDULE):
        return None
    return SCHEDULE[attempts - 1] * (1 + JITTER * spread)


def _signature(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
