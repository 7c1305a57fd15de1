"""Keeping the values of secrets out of everything that is stored, logged or returned.

What a server echoes is rarely what was sent: it may come back percent-encoded, escaped as JSON
or within a Base64 text. So each value is looked for in these spellings too. What a pipeline does
to a secret on purpose (reverses it, cuts it up) is beyond this.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from ordinaut.model import Json

MIN_LENGTH = 4  # a shorter value occurs by chance in any text; replacing it would destroy outputs
REPLACEMENT = "[secret]"


class Redactor:
    """Replaces the values of the secrets that a run may use."""

    __slots__ = ("_values",)

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {s for secret in secrets if len(secret) >= MIN_LENGTH for s in _spellings(secret)}
        # The longest first: one secret may hold another.
        self._values = sorted(found, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return ``text`` without secrets."""
        for value in self._values:
            if value in text:
                text = text.replace(value, REPLACEMENT)
        return text

    def json(self, value: Json) -> Json:
        """Return a JSON value without secrets, in its keys too."""
        if not self._values:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(item) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self.json(item) for key, item in value.items()}
        if isinstance(value, int | float) and str(value) in self._values:
            return REPLACEMENT  # a number that was sent as text
        return value


def _spellings(secret: str) -> Iterator[str]:
    written = {secret}
    for _ in range(2):  # JSON within JSON
        written |= {json.dumps(text)[1:-1] for text in written}
        written |= {json.dumps(text, ensure_ascii=False)[1:-1] for text in written}
    yield from written
    yield from (text.encode().decode("latin-1") for text in written)  # read as another charset
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield from _within_base64(secret.encode())


def _within_base64(secret: bytes) -> Iterator[str]:
    """Yield what a Base64 text shows of ``secret``, at each of the three places it can have.

    The characters at its ends depend on its neighbours as well, so they are left out.
    """
    for before in range(3):
        after = -(before + len(secret)) % 3
        text = base64.b64encode(bytes(before) + secret + bytes(after)).decode()
        inner = text[(0, 2, 3)[before] : len(text) - (0, 2, 3)[after]]
        if len(inner) >= MIN_LENGTH:
            yield inner
            yield inner.replace("+", "-").replace("/", "_")


NOTHING = Redactor(())
