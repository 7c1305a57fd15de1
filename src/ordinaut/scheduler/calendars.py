"""The calendars that due tasks exclude, read again only when they changed."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from ordinaut.engine.calendar import Calendar, parse_calendar
from ordinaut.store import calendars
from ordinaut.store.database import Tx


class Calendars:
    """A memory of parsed calendars; ICS text can be large."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[UUID, int, Calendar]] = {}

    async def named(self, tx: Tx, names: Iterable[str]) -> dict[str, Calendar]:
        """Return the calendars of these names that exist, as they are now."""
        wanted = sorted(set(names))
        if not wanted:
            return {}
        known = {name: self._known[name][:2] if name in self._known else None for name in wanted}
        found = await calendars.changed(tx, known)
        for name, id, version, definition in found:
            if definition is not None:
                self._known[name] = (id, version, parse_calendar(name, definition))
        return {name: self._known[name][2] for name, *_ in found}
