"""Which known name a mistyped one is closest to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_CANDIDATES = 500  # difflib is quadratic; a guess is not worth more time than this
MAX_NAME = 80


def nearest(name: str, candidates: Iterable[object]) -> str | None:
    """Return the candidate most like ``name``, or ``None`` when none is like it."""
    known = [c for c in list(candidates)[:MAX_CANDIDATES] if isinstance(c, str)]
    short = [c for c in known if len(c) <= MAX_NAME]
    found = difflib.get_close_matches(name[:MAX_NAME], short, n=1, cutoff=0.65)
    if not found:
        # A name without its prefix: "telegram.send" for "ext.telegram.send".
        found = [c for c in short if name and c.endswith(f".{name}")][:1]
    return found[0] if found else None


def hint(name: str, candidates: Iterable[object]) -> str:
    """Return ``; did you mean "…"?`` to append to a message, or nothing."""
    found = nearest(name, candidates)
    return f'; did you mean "{found}"?' if found is not None else ""
