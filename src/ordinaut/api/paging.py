"""Pages of lists: the cursor is the place where the page before ended, never an offset."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from ordinaut.errors import InvalidInput

T = TypeVar("T")


def encode_cursor(place: UUID | int) -> str:
    """Write the place where a page ended."""
    raw = place.bytes if isinstance(place, UUID) else str(place).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def cursor_id(cursor: str | None) -> UUID | None:
    """Read a place among ids; raises :class:`InvalidInput` for what no page ended with."""
    return None if cursor is None else _decode(cursor, lambda raw: UUID(bytes=raw))


def cursor_seq(cursor: str | None) -> int | None:
    """Read a place in a sequence."""
    return None if cursor is None else _decode(cursor, _sequence_number)


def paged(
    found: Sequence[T], *, limit: int, place: Callable[[T], UUID | int]
) -> tuple[list[T], str | None]:
    """Cut what was read (one more than asked for) into a page and the cursor of the next."""
    page = list(found[:limit])
    return page, encode_cursor(place(page[-1])) if len(found) > limit else None


def _decode(cursor: str, read: Callable[[bytes], T]) -> T:
    try:
        raw = base64.b64decode(
            (cursor + "=" * (-len(cursor) % 4)).encode("ascii"), altchars=b"-_", validate=True
        )
        return read(raw)
    except (ValueError, binascii.Error):
        raise InvalidInput.at(
            "cursor", "take next_cursor of the page before, as it is", code="invalid_cursor"
        ) from None


def _sequence_number(raw: bytes) -> int:
    if not (raw.isdigit() and len(raw) < 19):
        raise ValueError("not a place in a sequence")
    return int(raw)
