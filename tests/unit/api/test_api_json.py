"""JSON at the door: what the reader takes, and what it refuses."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordinaut.api.json import MAX_DEPTH, dumps, loads
from ordinaut.errors import InvalidInput, TooLarge

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_is_json_is_read_as_it_was_written(value: Any, escaped: bool) -> None:
    assert loads(json.dumps(value, ensure_ascii=escaped).encode()) == value


@given(VALUES)
def test_what_was_read_can_be_written(value: Any) -> None:
    assert loads(dumps(value)) == value


@given(st.binary())
def test_bytes_are_read_or_refused_and_nothing_else_happens(body: bytes) -> None:
    with suppress(InvalidInput, TooLarge):  # anything else would be an error
        loads(body)


PAIRS = st.recursive(
    st.integers(-99, 99).map(str) | st.sampled_from(['":"', '"a:b"', '"\\u003a"', "null", "1.5"]),
    lambda inner: st.lists(
        st.tuples(st.sampled_from(['"a"', '"b"', '":"', '"\\u0061"']), inner), max_size=4
    ).map(lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"),
    max_leaves=12,
)


@given(PAIRS)
def test_equal_keys_are_refused_wherever_they_stand(text: str) -> None:
    twice = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        twice = twice or len(dict(pairs)) < len(pairs)
        return dict(pairs)

    value = json.loads(text, object_pairs_hook=look)
    if twice:
        with pytest.raises(InvalidInput):
            loads(text.encode())
    else:
        assert loads(text.encode()) == value


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_limited(opening: str, closing: str) -> None:
    loads(nested(MAX_DEPTH, opening, closing))
    with pytest.raises(TooLarge):
        loads(nested(MAX_DEPTH + 1, opening, closing))


def test_brackets_in_strings_are_no_depth() -> None:
    text = '[{"' * 100
    assert loads(json.dumps([text, text + "\\", '"' + text]).encode())[0] == text


def test_many_brackets_side_by_side_are_no_depth() -> None:
    assert len(loads(b"[" + b",".join([b"[]"] * 1000) + b"]")) == 1000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_048_576,
        b'{"a":' * 200_000,
        b'["' + b"\\" * 1_048_000,
        b"[" + b"[],[]," * 170_000 + b"1]",
        b'"' * 1_048_576,
        b"9" * 1_048_576,
        b"[" + b"1e5," * 250_000 + b"1]",
        b'["' + b"\\u0041" * 170_000 + b'"]',
    ],
    ids=["lists", "objects", "backslashes", "siblings", "quotes", "digits", "floats", "escapes"],
)
def test_no_body_within_the_limit_holds_up_the_process(body: bytes) -> None:
    began = time.process_time()
    with suppress(InvalidInput, TooLarge):  # anything else would be an error
        loads(body)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"a": {"b": 1, "b": 2}}', "b"),
        (b'{"a": 1, "\\u0061": 2}', "a"),
        (b'{"a": ["\\u0000"]}', "a[0]"),
        (b'{"a": {"\\u0000": 1}}', "a.\\x00"),
        (b'["\\ud800"]', "[0]"),
        (b'"\\udfff"', "body"),
    ],
)
def test_refusals_name_the_place(body: bytes, path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        loads(body)
    assert [problem.path for problem in refused.value.problems] == [path]


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert loads(b'"\\ud83d\\ude00"') == "\U0001f600"
