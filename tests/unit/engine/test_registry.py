"""Tools are described once: by their schemas, or by the type hints of their functions."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from ordinaut.engine.registry import ToolRegistry, UnknownTool
from ordinaut.engine.tool import ToolContext
from ordinaut.errors import InvalidInput


class Letter(BaseModel):
    to: str
    copies: int = 1


async def send(to: str, subject: str = "", *, urgent: bool = False) -> dict[str, Any]:
    """Send a letter.

    More than one line.
    """
    return {}


async def whole(arguments: dict[str, Any]) -> None: ...


def plain(a: int, context: ToolContext) -> int:
    return a


async def stream(n: int) -> AsyncIterator[int]:
    yield n


def numbers(n: int) -> Iterator[int]:
    yield n


class Sender:
    async def __call__(self, to: str) -> None: ...

    async def method(self, to: str) -> None: ...


@pytest.fixture
def registry() -> ToolRegistry:
    return ToolRegistry()


def test_schemas_are_read_from_type_hints(registry: ToolRegistry) -> None:
    tool = registry.register("mail.send", send)

    assert tool.description == "Send a letter."
    assert tool.input_schema["required"] == ["to"]
    assert tool.input_schema["additionalProperties"] is False
    assert set(tool.input_schema["properties"]) == {"to", "subject", "urgent"}
    assert tool.takes is not None
    assert tool.takes.accepts({"to": "x", "urgent": True})
    assert not tool.takes.accepts({"to": 5})
    assert tool.prepare is None


def test_given_schemas_win(registry: ToolRegistry) -> None:
    tool = registry.register("mail.send", send, input_schema={}, description="Other")

    assert (tool.takes, tool.description) == (None, "Other")


@pytest.mark.parametrize(
    ("fn", "kind", "style", "wants_context"),
    [
        (send, "async", "keywords", False),
        (whole, "async", "dict", False),
        (plain, "sync", "keywords", True),
        (stream, "generator", "keywords", False),
        (Sender(), "async", "keywords", False),
        (Sender().method, "async", "keywords", False),
        (functools.partial(send, subject="x"), "async", "keywords", False),
        (lambda args: args, "sync", "dict", False),
        (lambda **anything: anything, "sync", "keywords", False),
    ],
)
def test_the_signature_says_how_a_tool_is_called(
    registry: ToolRegistry, fn: Any, kind: str, style: str, wants_context: bool
) -> None:
    tool = registry.register("test.tool", fn)

    assert (tool.kind, tool.style, tool.wants_context) == (kind, style, wants_context)


def test_typed_parameters_are_converted(registry: ToolRegistry) -> None:
    async def post(letter: Letter, on: date, how: Literal["air", "sea"] = "sea") -> Letter:
        return letter

    tool = registry.register("mail.post", post)

    assert tool.prepare is not None
    prepared = tool.prepare({"letter": {"to": "x"}, "on": "2026-03-01"})
    assert prepared == {"letter": Letter(to="x"), "on": date(2026, 3, 1)}
    assert tool.dump is not None
    assert tool.dump(Letter(to="y")) == {"to": "y", "copies": 1}
    assert tool.gives is not None
    assert tool.gives.accepts({"to": "y", "copies": 1})


def test_a_local_type_is_found_when_the_function_uses_it(registry: ToolRegistry) -> None:
    class Local(BaseModel):
        n: int

    async def post(local: Local) -> int:
        return Local.model_validate(local).n

    tool = registry.register("test.local", post)

    assert tool.prepare is not None
    assert tool.prepare({"local": {"n": 1}}) == {"local": Local(n=1)}


def test_a_function_without_readable_hints_takes_what_its_names_say(
    registry: ToolRegistry,
) -> None:
    def odd(a: "NoSuchType", b=1, *, n: int = 0):  # type: ignore  # noqa: F821, UP037
        return a

    tool = registry.register("test.odd", odd)

    assert tool.takes is not None
    assert tool.takes.accepts({"a": {"any": "thing"}})
    assert not tool.takes.accepts({"a": 1, "c": 1})
    assert not tool.takes.accepts({"a": 1, "n": "x"})


@pytest.mark.parametrize(
    ("name", "fn", "options", "message"),
    [
        ("send", send, {}, "at least two parts"),
        ("Mail.send", send, {}, "at least two parts"),
        ("mail.", send, {}, "at least two parts"),
        ("mail.a b", send, {}, "at least two parts"),
        ("m." + "a" * 200, send, {}, "at least two parts"),
        (5, send, {}, "at least two parts"),
        ("mail.send", 5, {}, "can not be called"),
        ("mail.send", send, {"effect": "maybe"}, "effect is one of"),
        ("mail.send", send, {"timeout": 0}, "above 0"),
        ("mail.send", send, {"timeout": True}, "above 0"),
        ("mail.send", send, {"input_schema": {"type": "objct"}}, "not a JSON Schema"),
        ("mail.send", send, {"output_schema": {"pattern": "("}}, "not a JSON Schema"),
        (
            "mail.send",
            send,
            {"input_schema": {"$ref": "https://a.org/"}},
            "within the schema",
        ),
        ("mail.send", numbers, {}, "make it async"),
        ("mail.send", lambda a, /: a, {}, "can not be given by keyword"),
        ("mail.send", dict, {}, "signature|generator|keyword"),
    ],
)
def test_what_can_not_be_a_tool_is_refused(
    registry: ToolRegistry, name: Any, fn: Any, options: Any, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        registry.register(name, fn, **options)

    assert len(registry) == 0


def test_a_name_is_taken_once(registry: ToolRegistry) -> None:
    registry.register("mail.send", send)
    with pytest.raises(InvalidInput, match="registered already"):
        registry.register("mail.send", whole)

    registry.unregister("mail.send")
    registry.register("mail.send", whole)
    registry.unregister("never.there")


def test_an_unknown_tool_names_the_nearest(registry: ToolRegistry) -> None:
    registry.register("ext.telegram.send", send)

    with pytest.raises(UnknownTool, match=r'did you mean "ext\.telegram\.send"') as caught:
        registry.get("telegram.send")
    assert caught.value.problems[0].code == "unknown_tool"
    assert registry.find("telegram.send") is None
    assert registry.get("ext.telegram.send").fn is send


def test_the_catalogue_is_sorted_and_plain(registry: ToolRegistry) -> None:
    registry.register("b.two", whole, effect="pure", timeout=5, examples=[{"a": 1}])
    registry.register("a.one", send)

    catalogue = registry.catalogue()

    assert [entry["name"] for entry in catalogue] == ["a.one", "b.two"] == list(registry.names())
    assert catalogue[1] == {
        "name": "b.two",
        "description": "",
        "input_schema": {},
        "output_schema": {"type": "null"},
        "effect": "pure",
        "timeout_seconds": 5.0,
        "examples": [{"a": 1}],
    }
