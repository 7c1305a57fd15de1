"""Keeping the values of secrets out of everything that is stored, logged or returned."""

from __future__ import annotations

from collections.abc import Iterable

from ordinaut.model import Json

MIN_LENGTH = 4  # a shorter value occurs by chance in any text; replacing it would destroy outputs
REPLACEMENT = "[secret]"


class Redactor:
    """Replaces the values of the secrets that a step used."""

    __slots__ = ("_values",)

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: one secret may hold another.
        self._values = sorted((s for s in secrets if len(s) >= MIN_LENGTH), key=len, reverse=True)

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
        return value


NOTHING = Redactor(())
