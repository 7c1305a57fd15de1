"""Which extensions changed on disk, for development."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

SUFFIXES = (".py", ".json")

Print: TypeAlias = frozenset[tuple[str, int, int]]


class Changes:
    """Remembers how folders looked last."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._seen = {id: fingerprint(folder) for id, folder in self._folders.items()}

    def look(self) -> list[str]:
        """Return the ids whose files changed since the last look."""
        now = {id: fingerprint(folder) for id, folder in self._folders.items()}
        changed = [id for id, seen in self._seen.items() if now[id] != seen]
        self._seen = now
        return changed


def fingerprint(folder: Path) -> Print:
    """Return what changes when a file of an extension does."""
    return frozenset(_prints(folder))


def _prints(folder: Path) -> Iterable[tuple[str, int, int]]:
    for place, _, names in os.walk(folder):  # a folder that vanishes meanwhile is left out
        for path in (Path(place, name) for name in names if name.endswith(SUFFIXES)):
            try:
                stat = path.stat()
            except OSError:
                continue  # an editor replaces it this instant
            yield str(path), stat.st_mtime_ns, stat.st_size
