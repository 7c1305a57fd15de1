"""Reading the fields of a payload: each says what is wrong with it, and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ordinaut.engine.nearest import hint
from ordinaut.errors import FieldProblem, InvalidInput
from ordinaut.model import Json

MAX_NAME = 64
MAX_PROBLEMS = 50

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z", re.ASCII)
_Parsed = TypeVar("_Parsed")


class Problems:
    """The problems found so far, and the readers of simple fields that add to them."""

    def __init__(self) -> None:
        self.found: list[FieldProblem] = []

    def add(self, path: str, message: str, *, code: str = "invalid") -> None:
        """Note one problem."""
        self.found.append(FieldProblem(path, message, code))

    def extend(self, found: Iterable[FieldProblem]) -> None:
        """Note problems that were found elsewhere."""
        self.found.extend(found)

    def attempt(self, parse: Callable[[], _Parsed]) -> _Parsed | None:
        """Return what ``parse`` returns, or take its problems and return ``None``."""
        try:
            return parse()
        except InvalidInput as error:
            self.extend(error.problems)
            return None

    def error(self, kind: type[InvalidInput], message: str) -> InvalidInput:
        """Return the error that carries all problems."""
        chosen = tuple(self.found[:MAX_PROBLEMS])
        first = chosen[0]
        return kind(f"{message}: {first.path}: {first.message}", problems=chosen)

    def unknown_keys(self, raw: Mapping[Any, Json], known: tuple[str, ...], *, path: str) -> None:
        """Refuse every key that is not known."""
        for key in raw:
            if key not in known:
                text = str(key)[:MAX_NAME]
                self.add(f"{path}.{text}", f"unknown key {text!r}{hint(text, known)}")

    def name(self, raw: Json, path: str) -> str:
        """Read the name of a step."""
        if isinstance(raw, str) and len(raw) <= MAX_NAME and _NAME.match(raw):
            return raw
        self.add(
            path,
            "a name has letters, digits, _ and -, begins with a letter or _, "
            f"and is at most {MAX_NAME} characters long",
        )
        return ""

    def number(self, raw: Mapping[str, Json], key: str, *, path: str, limit: float) -> float | None:
        """Read an optional number of seconds."""
        value = raw.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= limit:
            self.add(f"{path}.{key}", f"a number of seconds above 0, at most {limit:,}")
            return None
        return float(value)

    def integer(self, raw: Mapping[str, Json], key: str, *, path: str, bounds: range) -> int | None:
        """Read an optional whole number within ``bounds``."""
        value = raw.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value not in bounds:
            self.add(f"{path}.{key}", f"a whole number from {bounds[0]} to {bounds[-1]}")
            return None
        return value
