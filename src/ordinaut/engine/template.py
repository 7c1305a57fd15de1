"""Templates: ``${expression}`` in JSON values, compiled once, rendered often.

A value of any depth becomes a :class:`Template`. A string that is exactly one ``${…}`` keeps the
type of its value; within text, strings print as they are, other scalars as JSON words and
numbers, arrays and objects as compact JSON. ``$${`` is a literal ``${``. What an expression
yields is data: it is inserted and never read again. Keys of objects are not templates.

``now`` is the instant of rendering, unless the context brings its own ``now``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeAlias

import orjson

from ordinaut.engine import values
from ordinaut.engine.expression import Expression
from ordinaut.engine.interpreter import EvaluationError
from ordinaut.engine.scanner import (
    check_text_at,
    failed,
    invalid,
    opening_of,
    parse_bare,
    split_text,
)
from ordinaut.errors import TemplateError
from ordinaut.model import Json

MAX_RENDERED = values.MAX_SIZE

Secrets: TypeAlias = Mapping[str, str]
Location: TypeAlias = tuple[str | int, ...]


@dataclass(slots=True)
class _Rendering:
    """One rendering: where values come from, and how much more may be written."""

    context: Mapping[str, Json]
    now: datetime
    secrets: Secrets | None
    copier: values.Copier


# What is constant asks for nothing of it.
_NOTHING = _Rendering({}, datetime.fromtimestamp(0, UTC), None, values.Copier(0))


class _Node(Protocol):
    def render(self, to: _Rendering) -> Json: ...

    def slots(self) -> Iterator[Slot]: ...

    def outline(self, at: Location, holes: list[Location]) -> Json: ...


@dataclass(frozen=True, slots=True)
class Slot:
    """One ``${…}`` and its place."""

    path: str
    expression: Expression

    def value(self, to: _Rendering) -> Json:
        """Return the value of the expression, checked and copied."""
        found = search(self.expression, to.context, path=self.path, now=to.now, secrets=to.secrets)
        try:
            return to.copier.copy(found, values.MAX_DEPTH)
        except values.NotJson as error:
            raise failed(self.path, error.message, expression=self.expression, position=0) from None

    def render(self, to: _Rendering) -> Json:
        return self.value(to)

    def slots(self) -> Iterator[Slot]:
        yield self

    def outline(self, at: Location, holes: list[Location]) -> Json:
        holes.append(at)


@dataclass(frozen=True, slots=True)
class _Constant:
    value: Json

    def render(self, to: _Rendering) -> Json:
        return self.value

    def slots(self) -> Iterator[Slot]:
        yield from ()

    def outline(self, at: Location, holes: list[Location]) -> Json:
        return self.value


@dataclass(frozen=True, slots=True)
class _Text:
    parts: tuple[str | Slot, ...]

    def render(self, to: _Rendering) -> str:
        return "".join(
            part if isinstance(part, str) else as_text(part.value(to)) for part in self.parts
        )

    def slots(self) -> Iterator[Slot]:
        return (part for part in self.parts if isinstance(part, Slot))

    def outline(self, at: Location, holes: list[Location]) -> Json:
        holes.append(at)


@dataclass(frozen=True, slots=True)
class _List:
    items: tuple[_Node, ...]

    def render(self, to: _Rendering) -> list[Json]:
        return [item.render(to) for item in self.items]

    def slots(self) -> Iterator[Slot]:
        for item in self.items:
            yield from item.slots()

    def outline(self, at: Location, holes: list[Location]) -> Json:
        return [item.outline((*at, i), holes) for i, item in enumerate(self.items)]


@dataclass(frozen=True, slots=True)
class _Dict:
    items: tuple[tuple[str, _Node], ...]

    def render(self, to: _Rendering) -> dict[str, Json]:
        return {key: item.render(to) for key, item in self.items}

    def slots(self) -> Iterator[Slot]:
        for _, item in self.items:
            yield from item.slots()

    def outline(self, at: Location, holes: list[Location]) -> Json:
        return {key: item.outline((*at, key), holes) for key, item in self.items}


class Template:
    """A JSON value with its expressions, ready to be rendered any number of times."""

    __slots__ = ("_node", "constant", "path", "secrets", "slots", "source")

    def __init__(self, source: Json, node: _Node, *, path: str) -> None:
        self._node = node
        self.source = source
        self.path = path
        self.slots = tuple(node.slots())
        self.constant = not self.slots
        self.secrets = frozenset[str]().union(*(slot.expression.secrets for slot in self.slots))

    @property
    def whole(self) -> bool:
        """Whether it is one ``${…}`` and nothing else."""
        return isinstance(self._node, Slot)

    def render(
        self, context: Mapping[str, Json], *, now: datetime, secrets: Secrets | None = None
    ) -> Json:
        """Return a fresh value; raise :class:`TemplateError` naming what could not be had."""
        if self.constant:
            return self._node.render(_NOTHING)
        return self._node.render(_Rendering(context, now, secrets, values.Copier(MAX_RENDERED)))

    def outline(self) -> tuple[Json, tuple[Location, ...]]:
        """Return the value with ``null`` for what is not known yet, and where that is."""
        holes: list[Location] = []
        return self._node.outline((), holes), tuple(holes)


def parse_template(value: Json, *, path: str) -> Template:
    """Compile a value; raise :class:`InvalidTemplate` that points at the place in it."""
    return Template(value, _compile(value, path, values.MAX_DEPTH), path=path)


def _compile(value: Json, path: str, depth: int) -> _Node:
    if isinstance(value, str):
        return _compile_text(value, path)
    if depth <= 0:
        raise invalid(path, f"the value is nested deeper than {values.MAX_DEPTH} levels")
    if type(value) is list:
        items = (_compile(item, f"{path}[{i}]", depth - 1) for i, item in enumerate(value))
        return _List(tuple(items))
    if type(value) is dict:
        return _Dict(tuple(_compile_item(key, item, path, depth) for key, item in value.items()))
    try:
        return _Constant(values.copy_json(value))
    except values.NotJson as error:
        raise invalid(path, error.message) from None


def _compile_item(key: object, value: Json, path: str, depth: int) -> tuple[str, _Node]:
    if type(key) is not str:
        raise invalid(path, f"a key is {values.kind_of(key)}, not a string")
    check_text_at(key, path)
    if opening_of(key, 0) is not None:
        raise invalid(path, f"the key {key!r:.60} holds a template; keys are not templates")
    return key, _compile(value, f"{path}.{key}", depth - 1)


def _compile_text(text: str, path: str) -> _Node:
    check_text_at(text, path)
    if "${" not in text:
        return _Constant(text)
    parts = tuple(
        Slot(path, part) if isinstance(part, Expression) else part
        for part in split_text(text, path)
    )
    if len(parts) == 1 and isinstance(parts[0], Slot):
        return parts[0]
    if all(isinstance(part, str) for part in parts):
        return _Constant("".join(str(part) for part in parts))
    return _Text(parts)


def as_text(value: Json) -> str:
    """Return a value the way it stands within text."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def search(
    expression: Expression,
    context: Mapping[str, Json],
    *,
    path: str,
    now: datetime,
    secrets: Secrets | None = None,
    strict: bool = True,
) -> Json:
    """Return the value of one expression; raise :class:`TemplateError` where there is none."""
    try:
        return expression.search(context, now=now, secrets=secrets, strict=strict)
    except EvaluationError as error:
        raise failed(path, error.message, expression=expression, position=error.position) from None


def evaluate(value: Json, context: Mapping[str, Json], *, now: datetime) -> Json:
    """Render ``value`` over ``context``, as a step would."""
    return parse_template(value, path="value").render(context, now=now)


@dataclass(frozen=True, slots=True)
class Condition:
    """The ``if`` of a step: an expression, or a constant ``true`` or ``false``."""

    path: str
    expression: Expression | None
    constant: bool = False

    @property
    def text(self) -> str:
        """The condition as a bare expression."""
        if self.expression is None:
            return "`true`" if self.constant else "`false`"
        return self.expression.text

    @property
    def asks_item(self) -> bool:
        """Whether it looks at the item of a ``foreach``, and so holds or not for each."""
        found = () if self.expression is None else self.expression.references
        return any(reference.root in ("item", "index") for reference in found)

    def value(self, context: Mapping[str, Json], *, now: datetime) -> Json:
        """Return what the expression yields; a path that does not exist is ``null``."""
        if self.expression is None:
            return self.constant
        return search(self.expression, context, path=self.path, now=now, strict=False)

    def evaluate(self, context: Mapping[str, Json], *, now: datetime) -> bool:
        """Tell whether the condition holds."""
        return truth(self.value(context, now=now))


def truth(value: Json) -> bool:
    """JMESPath's truth: null, false and what is empty are false; 0 is true."""
    return not (value is None or value is False or value == "" or value == [] or value == {})


def parse_condition(text: Json, *, path: str) -> Condition:
    """Compile a condition, bare or as ``${…}``."""
    if isinstance(text, bool):
        return Condition(path, None, text)
    if not isinstance(text, str):
        raise invalid(path, f"a condition is a JMESPath expression, not {values.kind_of(text)}")
    check_text_at(text, path)
    return Condition(path, parse_bare(text, path=path))


def evaluate_condition(condition: str, context: Mapping[str, Json], *, now: datetime) -> Json:
    """Return what ``condition`` yields over ``context``, checked and copied."""
    parsed = parse_condition(condition, path="condition")
    found = parsed.value(context, now=now)
    try:
        return values.copy_json(found)
    except values.NotJson as error:
        raise TemplateError(f"condition: {error.message}", path="condition") from None
