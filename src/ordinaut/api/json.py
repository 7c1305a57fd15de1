"""JSON at the door: what is ambiguous or can not be stored is refused, with its place.

``orjson`` is faster but takes the last of two equal keys without a word; the reader of the
standard library tells about every object, every number and every constant. So what ``orjson``
has read counts only where it is plain that nothing was lost.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import orjson

from ordinaut.errors import InvalidInput, TooLarge
from ordinaut.model import Json

MAX_DEPTH: Final = 64
INT64: Final = range(-(2**63), 2**63)

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NOT_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_LONG_NUMBER = re.compile(rb"\d{18}|\d[eE]")


def dumps(value: Any) -> bytes:
    """Write JSON; times are RFC 3339 with ``Z``."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def loads(body: bytes) -> Json:
    """Read JSON strictly.

    Raises :class:`InvalidInput` for what is not JSON, for equal keys in one object, for numbers
    that are not finite or over 64 bits and for text that can not be stored;
    :class:`TooLarge` for a nesting over ``MAX_DEPTH``.
    """
    outside = _outside_strings(body)
    if _depth(outside) > MAX_DEPTH:
        raise TooLarge(f"the body is nested deeper than {MAX_DEPTH} levels")
    if (plain := _plain(body, outside)) is not None:
        return plain
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    if b"\\u" in body:  # only an escape can smuggle in what UTF-8 itself does not carry
        check_text(value)
    return value


def check_text(value: Json) -> None:
    """Refuse NUL and lone surrogates anywhere in ``value``: PostgreSQL can not store them."""
    for place, text in _texts(value, ""):
        if "\0" in text:
            raise InvalidInput.at(place, "contains NUL (U+0000)", code="invalid_text")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidInput.at(place, "contains a lone surrogate", code="invalid_text")


def _texts(value: Json, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place or "body", value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{place}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            inner = f"{place}.{ascii(key)[1:-1]}".removeprefix(".")
            yield inner, key
            yield from _texts(item, inner)


def _outside_strings(body: bytes) -> bytes:
    if b"\\" in body:
        return _STRING.sub(b"", body)
    return b"".join(body.split(b'"')[::2])  # the same, many times faster


def _depth(outside: bytes) -> int:
    # Few brackets can not be deep; this spares nearly every body the search.
    if outside.count(b"[") + outside.count(b"{") <= MAX_DEPTH:
        return 0
    brackets = outside.translate(_BRACKETS, _NOT_BRACKET)
    depth = 0
    while brackets and depth <= MAX_DEPTH:
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):  # what is left has no partner
            return depth + outer.count(b"[")
        brackets, depth = outer, depth + 1
    return depth


def _plain(body: bytes, outside: bytes) -> Json:
    """Return what ``body`` says if there can be no doubt about it, else None.

    Without escapes and with short numbers, only a pair whose key comes again can get lost, and
    it takes its colon with it.
    """
    if b"\\" in body or _LONG_NUMBER.search(outside):
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if orjson.dumps(value).count(b":") == body.count(b":") else None


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidInput.at(ascii(twice)[1:-1], "stands twice in one object", code="duplicate")
    return made


def _constant(text: str) -> NoReturn:
    raise InvalidInput(f"the body is not JSON: {text} is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidInput(f"the number {text[:40]} is out of range")
    return number


def _integer(text: str) -> int:
    if len(text) > 20 or (number := int(text)) not in INT64:
        raise InvalidInput(f"the number {text[:40]} does not fit into 64 bits")
    return number
