"""What a JSON value is: checked, measured and copied in one walk.

Values cross the edge of the engine in two places: a payload when it is parsed, and the output
of a tool. Both are checked here, so that everything inside is plain JSON that PostgreSQL can
store: no NaN, no NUL, no lone surrogates, no integers beyond 64 bits, bounded in depth and size.
"""

from __future__ import annotations

from math import isfinite

from ordinaut.model import Json

MAX_DEPTH = 64
MAX_SIZE = 1024 * 1024  # of one value, in characters and nodes: roughly its bytes as JSON
MAX_INTEGER = 2**63 - 1
MIN_INTEGER = -(2**63)

_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


class NotJson(ValueError):
    """A value that is not JSON, or is too large; ``path`` is where (``.items[3].at``)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.path = ""

    def inside(self, key: str | int) -> NotJson:
        """Note that the value was found under ``key``."""
        place = f"[{key}]" if isinstance(key, int) else f".{key}"
        self.path = place + self.path
        return self


def kind_of(value: object) -> str:
    """Return the JSON name of a value's type with its article, for messages."""
    return _NAMES.get(type(value), f"a Python {type(value).__name__}")


def kind_and_size(value: object) -> str:
    """Return what a value is, with the length of an array."""
    if isinstance(value, list):
        return f"an array of {len(value)} elements"
    return kind_of(value)


def copy_json(value: Json, *, limit: int = MAX_SIZE) -> Json:
    """Return a checked copy of ``value``; raise :class:`NotJson` where it is not JSON.

    The walk stops at ``limit``, so a value that shares its parts a million times over, or holds
    itself, costs no more than a large honest one.
    """
    return Copier(limit).copy(value, MAX_DEPTH)


def check_text(text: str) -> None:
    """Raise :class:`NotJson` for text that no database column can hold."""
    if "\0" in text:
        raise NotJson("a string holds a NUL character (U+0000)")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise NotJson(
                f"a string holds a lone surrogate (U+{ord(text[error.start]):04X})"
            ) from None


class Copier:
    """Copies JSON values until a common size limit is reached."""

    __slots__ = ("_limit", "left")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.left = limit

    def spend(self, size: int) -> None:
        """Take ``size`` from what is left."""
        self.left -= size
        if self.left < 0:
            raise NotJson(f"the value is larger than {self._limit:,} characters")

    def copy(self, value: Json, depth: int) -> Json:
        kind = type(value)
        if kind is str:
            self.spend(len(value) + 1)
            check_text(value)
            return value
        self.spend(1)
        if value is None or kind is bool:
            return value
        if kind is int:
            if not MIN_INTEGER <= value <= MAX_INTEGER:
                raise NotJson("an integer needs more than 64 bits")
            return value
        if kind is float:
            if not isfinite(value):
                raise NotJson(f"{value} is not a JSON number")
            return value
        return self._copy_container(value, depth)

    def _copy_container(self, value: Json, depth: int) -> Json:
        kind = type(value)
        if kind is not dict and kind is not list:
            raise NotJson(f"{kind_of(value)} is not JSON")
        if depth <= 0:
            raise NotJson(f"the value is nested deeper than {MAX_DEPTH} levels")
        if kind is list:
            return self._copy_list(value, depth - 1)
        return self._copy_dict(value, depth - 1)

    def _copy_list(self, value: list[Json], depth: int) -> list[Json]:
        result: list[Json] = []
        try:
            for item in value:
                result.append(self.copy(item, depth))
        except NotJson as error:
            raise error.inside(len(result)) from None
        return result

    def _copy_dict(self, value: dict[str, Json], depth: int) -> dict[str, Json]:
        result: dict[str, Json] = {}
        for key, item in value.items():
            if type(key) is not str:
                raise NotJson(f"an object has a key that is {kind_of(key)}, not a string")
            self.spend(len(key) + 1)
            check_text(key)
            try:
                result[key] = self.copy(item, depth)
            except NotJson as error:
                raise error.inside(key) from None
        return result
