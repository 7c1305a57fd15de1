"""What a function says about itself: how it is called, what it takes, what it gives."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType
from typing import Any, TypeAlias, get_origin

from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, TypeAdapter, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from ordinaut.engine.tool import CallStyle, ToolKind
from ordinaut.errors import InvalidInput
from ordinaut.model import Json

ToolFunction: TypeAlias = Callable[..., Any]

_WHOLE_NAMES = ("arguments", "args")
_CONTEXT = "context"
_UNIONS = (typing.Union, type(int | str))
_NO_SCHEMA = (PydanticUserError, PydanticSchemaGenerationError, PydanticInvalidForJsonSchema)
_PLAIN = (str, int, float, bool, type(None), dict, list, Any, object, inspect.Parameter.empty)


@dataclass(frozen=True, slots=True)
class Signature:
    """How a function is called, and the schemas that its type hints stand for.

    Without ``dump`` the output is not checked against ``output_schema``: a plain hint says
    little about it, and checking would only cost time.
    """

    kind: ToolKind
    style: CallStyle
    wants_context: bool
    description: str
    input_schema: Json
    output_schema: Json
    prepare: Callable[[dict[str, Json]], dict[str, Any]] | None
    dump: Callable[[Any], Json] | None


def read_signature(fn: ToolFunction) -> Signature:
    """Read a function; raise :class:`InvalidInput` for one that can not be a tool."""
    hints = _hints(fn)
    parameters = _parameters(fn)
    wants_context = any(p.name == _CONTEXT for p in parameters)
    own = [p for p in parameters if p.name != _CONTEXT]
    style: CallStyle = "dict" if _takes_all_at_once(own) else "keywords"
    model, input_schema = (None, {}) if style == "dict" else _model(fn, own, hints)
    kind = _kind(fn)
    adapter, output_schema = (None, {}) if kind == "generator" else _result(hints)
    return Signature(
        kind=kind,
        style=style,
        wants_context=wants_context,
        description=_first_line(fn),
        input_schema=input_schema,
        output_schema=output_schema,
        prepare=_prepare(model, own, hints),
        dump=None if adapter is None else functools.partial(adapter.dump_python, mode="json"),
    )


def _inner(fn: ToolFunction) -> ToolFunction:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isroutine(fn) or inspect.isclass(fn):
        return fn
    return type(fn).__call__


def _kind(fn: ToolFunction) -> ToolKind:
    inner = _inner(fn)
    if inspect.isasyncgenfunction(inner):
        return "generator"
    if inspect.isgeneratorfunction(inner):
        raise InvalidInput.at("fn", "a generator function is not a tool; make it async")
    return "async" if inspect.iscoroutinefunction(inner) else "sync"


def _hints(fn: ToolFunction) -> dict[str, Any]:
    """Return the type hints; one that can not be resolved stands for anything.

    That is usual for names imported under ``TYPE_CHECKING``. Each hint is resolved on its own,
    so that one such name does not take the others with it.
    """
    inner = inspect.unwrap(_inner(fn))
    annotations = getattr(inner, "__annotations__", {})
    names = {**getattr(inner, "__globals__", {}), **_closure(inner)}
    return {name: _resolved(name, hint, names) for name, hint in annotations.items()}


def _closure(fn: ToolFunction) -> dict[str, Any]:
    code = getattr(fn, "__code__", None)
    cells = getattr(fn, "__closure__", None) or ()
    filled = zip(code.co_freevars if code else (), cells, strict=False)
    return {name: cell.cell_contents for name, cell in filled if cell != CellType()}


def _resolved(name: str, hint: Any, names: dict[str, Any]) -> Any:
    holder = type("holder", (), {"__annotations__": {name: hint}})
    try:
        return typing.get_type_hints(holder, names, names, include_extras=True)[name]
    except Exception:  # foreign annotations may be anything
        return Any


def _parameters(fn: ToolFunction) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        raise InvalidInput.at("fn", "the function has no readable signature") from None
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.name not in _WHOLE_NAMES:
            raise InvalidInput.at("fn", f"parameter {parameter.name!r} can not be given by keyword")
    return [p for p in parameters if p.kind is not p.VAR_POSITIONAL]


def _takes_all_at_once(own: list[inspect.Parameter]) -> bool:
    return (
        len(own) == 1
        and own[0].name in _WHOLE_NAMES
        and own[0].kind in (own[0].POSITIONAL_OR_KEYWORD, own[0].POSITIONAL_ONLY)
    )


def _model(
    fn: ToolFunction, own: list[inspect.Parameter], hints: dict[str, Any]
) -> tuple[type[BaseModel] | None, Json]:
    """Return a model of the keyword parameters with its schema; none where all keys are taken."""
    if any(p.kind is p.VAR_KEYWORD for p in own) or any(p.name.startswith("_") for p in own):
        return None, {}
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default) for p in own
    }
    try:
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
        model = create_model(getattr(fn, "__name__", "arguments"), __config__=config, **fields)
        return typing.cast(type[BaseModel], model), model.model_json_schema()
    except _NO_SCHEMA as error:
        raise InvalidInput.at("fn", f"its type hints have no JSON Schema: {error}") from None


def _prepare(
    model: type[BaseModel] | None, own: list[inspect.Parameter], hints: dict[str, Any]
) -> Callable[[dict[str, Json]], dict[str, Any]] | None:
    if model is None or all(_is_plain(hints.get(p.name, Any)) for p in own):
        return None
    chosen = model

    def prepare(arguments: dict[str, Json]) -> dict[str, Any]:
        checked = chosen.model_validate(arguments)
        return {name: getattr(checked, name) for name in checked.model_fields_set}

    return prepare


def _is_plain(hint: Any) -> bool:
    """Tell whether values of this type are what JSON gives, so that nothing is converted."""
    origin = get_origin(hint)
    if origin is typing.Annotated or origin is typing.Literal:
        return origin is typing.Literal or _is_plain(typing.get_args(hint)[0])
    if origin is None:
        return hint in _PLAIN or typing.is_typeddict(hint)
    inner = typing.get_args(hint)
    return (origin in (dict, list) or origin in _UNIONS) and all(map(_is_plain, inner))


def _result(hints: dict[str, Any]) -> tuple[TypeAdapter[Any] | None, Json]:
    """Return what turns a result into JSON, where that is needed, and the result's schema."""
    hint = hints.get("return", Any)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        schema = adapter.json_schema(mode="serialization")
    except _NO_SCHEMA:
        return None, {}
    return None if _is_plain(hint) else adapter, schema


def _first_line(fn: ToolFunction) -> str:
    return (inspect.getdoc(fn) or "").strip().split("\n", 1)[0]
