"""JSON Schema: what a tool takes and gives, checked by jsonschema-rs.

The draft is the one ``$schema`` names, else 2020-12. Nothing outside of the schema is ever
read: a ``$ref`` to a URL or a file is refused. Regular expressions run within a limit of
backtracking, so a hostile pattern fails instead of hanging.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import jsonschema_rs

from ordinaut.engine import values
from ordinaut.errors import FieldProblem, InvalidInput
from ordinaut.model import Json

MAX_BACKTRACKS = 100_000
MAX_REGEX_SIZE = 1024 * 1024
MAX_PROBLEMS = 20
MAX_MESSAGE = 300

# Rules that look at the value itself and not at what is inside it: they hold although parts of
# the value are not known yet.
_SHALLOW_RULES = frozenset(
    {
        "required",
        "additionalProperties",
        "unevaluatedProperties",
        "type",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "propertyNames",
        "dependentRequired",
        "falseSchema",
    }
)
_CONDITIONAL_RULES = frozenset({"then", "else", "dependentSchemas", "if"})

Location: TypeAlias = tuple[str | int, ...]


class Schema:
    """A compiled JSON Schema."""

    __slots__ = ("_masked", "_validator", "source")

    def __init__(self, source: Json) -> None:
        """Compile ``source``; raise :class:`InvalidInput` when it is not a schema."""
        self.source = source
        self._validator = _compile(source)
        self._masked: Any = None

    def accepts(self, value: Json) -> bool:
        """Tell whether ``value`` is valid."""
        return bool(self._validator.is_valid(value))

    def problems(
        self, value: Json, *, path: str, unknown: Iterable[Location] = (), masked: bool = False
    ) -> tuple[FieldProblem, ...]:
        """Return what is wrong with ``value``, each problem with its place below ``path``.

        ``unknown`` names the places whose values are not known yet: only the problems that
        hold whatever they become are returned. ``masked`` keeps values out of the messages.
        """
        holes = tuple(unknown)
        found = []
        for error in self._chosen(masked).iter_errors(value):
            if not holes or _certain(error, holes):
                found.append(_problem(error, path))
            if len(found) >= MAX_PROBLEMS:
                break
        return tuple(found)

    def _chosen(self, masked: bool) -> Any:
        if masked and self._masked is None:
            self._masked = _compile(self.source, mask="the value")
        return self._masked if masked else self._validator


def _compile(source: Json, *, mask: str | None = None) -> Any:
    try:
        checked = values.copy_json(source)
        return jsonschema_rs.validator_for(
            checked,
            validate_formats=True,
            retriever=_refuse,
            mask=mask,
            pattern_options=jsonschema_rs.FancyRegexOptions(
                backtrack_limit=MAX_BACKTRACKS, size_limit=MAX_REGEX_SIZE
            ),
        )
    except values.NotJson as error:
        raise InvalidInput.at(f"schema{error.path}", error.message) from None
    except jsonschema_rs.ValidationError as error:
        place = f"schema{_written(error.instance_path)}"
        raise InvalidInput.at(place, f"not a JSON Schema: {_short(error.message)}") from None
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise InvalidInput.at("schema", f"not a JSON Schema: {_short(str(error))}") from None


def _refuse(uri: str) -> Json:
    raise ValueError("only references within the schema are followed")


def _problem(error: jsonschema_rs.ValidationError, path: str) -> FieldProblem:
    place = path + _written(error.instance_path) + _written(_named(error.kind))
    rule = "/".join(str(part) for part in error.schema_path)
    return FieldProblem(place, f"{_short(error.message)} (rule {rule})", error.kind.name)


def _named(kind: jsonschema_rs.ValidationErrorKind) -> tuple[str, ...]:
    """Return the key that is missing or too much, which is where a reader would look."""
    match kind:
        case jsonschema_rs.ValidationErrorKind.Required():
            return (str(kind.property),)
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties():
            return tuple(kind.unexpected[:1])
        case _:
            return ()


def _certain(error: jsonschema_rs.ValidationError, holes: tuple[Location, ...]) -> bool:
    """Tell whether a problem stays whatever the values at ``holes`` become."""
    place: Location = tuple(error.instance_path)
    if any(place[: len(hole)] == hole for hole in holes):
        return False
    if not any(hole[: len(place)] == place for hole in holes):
        return True
    return error.kind.name in _SHALLOW_RULES and not _CONDITIONAL_RULES & set(
        map(str, error.schema_path)
    )


def _written(location: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _short(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"
