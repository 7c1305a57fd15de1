"""JSON Schema 2020-12: the required cases of the official suite, and what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ordinaut.engine.schema import Schema
from ordinaut.errors import InvalidInput

DATA = Path(__file__).parents[2] / "data" / "json_schema_2020_12.json"

REMOTES = json.loads(DATA.with_name("json_schema_remotes.json").read_text())


def groups() -> Iterator[Any]:
    for group in json.loads(DATA.read_text())["groups"]:
        yield pytest.param(group, id=f"{group['file']}: {group['description']}"[:90])


# What differs on purpose, with its reason.
REFUSED = {
    "const: nul characters in strings",  # no database column holds a NUL
    "enum: nul characters in strings",
}
# These refer to documents of their own, and nothing is ever fetched.
ELSEWHERE = {
    "dynamicRef: strict-tree schema, guards against misspelled properties",
    "dynamicRef: tests for implementation dynamic anchor and reference link",
    "dynamicRef: $ref and $dynamicAnchor are independent of order - $defs first",
    "dynamicRef: $ref and $dynamicAnchor are independent of order - $ref first",
    "dynamicRef: $ref to $dynamicRef finds detached $dynamicAnchor",
    "vocabulary: schema that uses custom metaschema with with no validation vocabulary",
    "vocabulary: ignore unrecognized optional vocabulary",
}
ASSERTED = "format"  # is an annotation for the suite; here it is checked


def test_the_data_is_the_whole_suite() -> None:
    found = json.loads(DATA.read_text())["groups"]
    assert len(found) == 383
    assert sum(len(group["tests"]) for group in found) == 1299


def bundled(source: Any) -> Any:
    """Return a schema with the documents it refers to inside of it, as its author would do."""
    inside = {}
    for number, (address, found) in enumerate(REMOTES["documents"].items()):
        moved = not isinstance(found, dict) or found.get("$id", address) != address
        document = {"$id": address} | ({"allOf": [found]} if moved else found)
        inside[f"remote_{number}"] = document
    return {**source, "$defs": {**source.get("$defs", {}), **inside}}


@pytest.mark.parametrize("group", list(groups()))
def test_required_cases(group: dict[str, Any]) -> None:
    name = f"{group['file']}: {group['description']}"
    source = group["schema"]
    if name in REFUSED | ELSEWHERE or group["file"] == "refRemote":
        with pytest.raises(InvalidInput):
            Schema(source)
        if name in REFUSED:
            return
        source = bundled(source)
    schema = Schema(source)
    for case in group["tests"]:
        valid = case["valid"]
        if group["file"] == ASSERTED and "only an annotation" in case["description"]:
            valid = False
        assert schema.accepts(case["data"]) is valid, case["description"]
        assert bool(schema.problems(case["data"], path="with")) is not valid, case["description"]


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ({"type": "objct"}, "schema.type"),
        ({"properties": {"a": {"pattern": "["}}}, "schema.properties.a.pattern"),
        ({"minimum": float("nan")}, "schema.minimum"),
        ({"$ref": "https://example.org/x.json"}, "schema"),
        ({"$ref": "file:///etc/passwd"}, "schema"),
        ({"$schema": "no-such-draft"}, "schema"),
        (5, "schema"),
    ],
)
def test_what_is_not_a_schema_is_refused_with_its_place(source: Any, place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Schema(source)

    assert caught.value.problems[0].path == place


def test_a_problem_says_path_value_and_rule() -> None:
    schema = Schema({"properties": {"urls": {"items": {"type": "string"}}}})

    (problem,) = schema.problems({"urls": ["a", 5]}, path="payload.pipeline[0].with")

    assert problem.path == "payload.pipeline[0].with.urls[1]"
    assert problem.message == '5 is not of type "string" (rule properties/urls/items/type)'
    assert problem.code == "type"


@pytest.mark.parametrize(
    ("source", "value", "path"),
    [
        ({"required": ["url"]}, {}, "with.url"),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, "with.b"),
    ],
)
def test_a_key_that_is_missing_or_too_much_is_named(source: Any, value: Any, path: str) -> None:
    assert [p.path for p in Schema(source).problems(value, path="with")] == [path]


def test_masked_problems_hold_no_value() -> None:
    schema = Schema({"properties": {"key": {"type": "integer"}, "list": {"enum": ["a"]}}})

    problems = schema.problems({"key": "s3cret", "list": "s3cret"}, path="with", masked=True)

    assert len(problems) == 2
    assert "s3cret" not in str(problems)


def test_a_hostile_pattern_fails_instead_of_hanging() -> None:
    started = time.monotonic()

    assert not Schema({"pattern": "^(a+)+$"}).accepts("a" * 64 + "b")
    assert not Schema({"pattern": r"(a*)*\1b(?=x)"}).accepts("a" * 64 + "c")

    assert time.monotonic() - started < 2


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = Schema({"type": "object", "additionalProperties": {"$ref": "#"}})

    assert schema.accepts({"a": {"b": {}}})
    assert not schema.accepts({"a": {"b": 1}})


@pytest.mark.parametrize(
    ("source", "value", "unknown", "found"),
    [
        # What holds whatever the hole becomes.
        ({"required": ["a", "b"]}, {"a": None}, [("a",)], ["with.b"]),
        ({"properties": {}, "additionalProperties": False}, {"a": None}, [("a",)], ["with.a"]),
        ({"properties": {"a": {"type": "array"}}}, {"a": {"b": None}}, [("a", "b")], ["with.a"]),
        ({"properties": {"b": {"type": "string"}}}, {"a": None, "b": 5}, [("a",)], ["with.b"]),
        # What may still become right.
        ({"properties": {"a": {"type": "string"}}}, {"a": None}, [("a",)], []),
        ({"anyOf": [{"required": ["z"]}, {"properties": {"a": {"const": 1}}}]},
         {"a": None}, [("a",)], []),
        ({"const": {"a": 1}}, {"a": None}, [("a",)], []),
        ({"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]},
          "else": {"required": ["c"]}}, {"a": None}, [("a",)], []),
        ({"properties": {"a": {"type": "string"}}}, None, [()], []),
    ],
)  # fmt: skip
def test_only_what_is_certain_is_a_problem_while_values_are_unknown(
    source: Any, value: Any, unknown: list[Any], found: list[str]
) -> None:
    problems = Schema(source).problems(value, path="with", unknown=unknown)

    assert [problem.path for problem in problems] == found
