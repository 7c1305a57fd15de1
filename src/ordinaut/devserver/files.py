"""Files that only their owner may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write ``path`` with mode 0600; a reader sees the old text or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def private_token(path: Path, *, prefix: str = "", size: int = 32) -> str:
    """Return the random token kept in ``path``, made from ``size`` bytes the first time."""
    try:
        return path.read_text()
    except FileNotFoundError:
        token = prefix + secrets.token_urlsafe(size)
        write_private(path, token)
        return token
