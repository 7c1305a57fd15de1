"""The evaluation of a parsed expression: jmespath's interpreter with positions and a budget."""

from __future__ import annotations

import re
from typing import Any

from jmespath.exceptions import JMESPathTypeError
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

from ordinaut.engine.nearest import hint
from ordinaut.engine.values import MAX_DEPTH, MAX_SIZE, Copier, NotJson, kind_and_size, kind_of
from ordinaut.model import Json

MAX_COST = 200_000  # nodes visited and elements read by one evaluation: well under a second

_PATH_BEFORE = re.compile(r"""(?:[\w.]|"(?:[^"\\]|\\.)*"|\[-?\d+\])+\Z""")
_NAME_AT = re.compile(r"""[\w]+|"(?:[^"\\]|\\.)*\"""")
_JSON_TYPES = {"str": "string", "int": "number", "float": "number", "bool": "boolean",
               "NoneType": "null", "list": "array", "dict": "object"}  # fmt: skip


class EvaluationError(ValueError):
    """An expression that has no value; ``position`` is the offset of what failed in it."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class Interpreter(TreeInterpreter):  # type: ignore[misc]  # jmespath has no types
    """Evaluates one expression once."""

    _functions = Functions()
    _dict_cls = dict

    def __init__(self, text: str, *, strict: bool) -> None:
        # The library's own __init__ makes functions and a cache of methods for each evaluation,
        # which costs more than most expressions.
        self._text = text
        self._lenient = 0 if strict else 1
        self._left = MAX_COST
        self._position = 0
        self._root: Json = None

    def evaluate(self, node: Any, root: Json) -> Json:
        """Return the value of ``node``; every failure becomes an :class:`EvaluationError`."""
        self._root = root
        try:
            return self.visit(node, root)
        except EvaluationError:
            raise
        except JMESPathTypeError as error:
            raise self._failed(_type_message(error)) from None
        except NotJson as error:
            raise self._failed(error.message) from None
        except Exception as error:  # foreign code: the library lets bare TypeErrors through
            raise self._failed(f"it can not be evaluated ({type(error).__name__})") from None

    def _failed(self, message: str) -> EvaluationError:
        return EvaluationError(message, self._position)

    def visit(self, node: Any, value: Any) -> Any:
        self._spend(1)
        return _VISITORS[node["type"]](self, node, value)

    def _spend(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise self._failed("it costs too much to evaluate")

    def visit_field(self, node: Any, value: Any) -> Any:
        self._position = node["start"]
        if isinstance(value, dict):
            name = node["value"]
            if name in value:
                return value[name]
            if self._lenient:
                return None
            raise self._failed(f'{self._place(value)} has no "{name}"{hint(name, value)}')
        if self._lenient:
            return None
        raise self._failed(f'{self._place(value)} is {kind_of(value)}, it has no "{node["value"]}"')

    def visit_index(self, node: Any, value: Any) -> Any:
        self._position = node["start"]
        index = node["value"]
        if isinstance(value, list) and -len(value) <= index < len(value):
            return value[index]
        if self._lenient:
            return None
        raise self._failed(f"{self._place(value)} is {kind_and_size(value)}, it has no [{index}]")

    def _place(self, value: Any) -> str:
        """Return the path of ``value``, which is before the current position, as it is written."""
        if value is self._root:
            return "the context"
        found = _PATH_BEFORE.search(self._text[: self._position].rstrip(" .["))
        return "the value" if found is None else found[0]

    def _last_place(self) -> str:
        """Return the path that ends with what was looked up last."""
        name = _NAME_AT.match(self._text, self._position)
        found = None if name is None else _PATH_BEFORE.search(self._text[: name.end()])
        return "the value" if found is None else found[0]

    def visit_or_expression(self, node: Any, value: Any) -> Any:
        left, right = node["children"]
        matched = self._leniently(left, value)
        return self.visit(right, value) if self._is_false(matched) else matched

    def _leniently(self, node: Any, value: Any) -> Any:
        self._lenient += 1
        try:
            return self.visit(node, value)
        finally:
            self._lenient -= 1

    def visit_projection(self, node: Any, value: Any) -> Any:
        base = self._array(node["children"][0], value)
        return self._project(node["children"][1], base)

    def visit_value_projection(self, node: Any, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        if not isinstance(base, dict):
            self._refuse_base(base, "an object")
            return None
        return self._project(node["children"][1], list(base.values()))

    def visit_filter_projection(self, node: Any, value: Any) -> Any:
        base = self._array(node["children"][0], value)
        if base is None:
            return None
        wanted = node["children"][2]
        kept = [item for item in base if self._is_true(self._leniently(wanted, item))]
        return self._project(node["children"][1], kept)

    def visit_flatten(self, node: Any, value: Any) -> Any:
        base = self._array(node["children"][0], value)
        if base is None:
            return None
        merged: list[Any] = []
        for item in base:
            merged.extend(item if isinstance(item, list) else (item,))
            self._spend(len(item) if isinstance(item, list) else 1)
        return merged

    def visit_slice(self, node: Any, value: Any) -> Any:
        self._position = node.get("start", self._position)
        if not isinstance(value, list):
            self._refuse_base(value, "an array")
            return None
        return value[slice(*node["children"])]

    def _array(self, node: Any, value: Any) -> list[Any] | None:
        base = self.visit(node, value)
        if isinstance(base, list):
            return base
        self._refuse_base(base, "an array")
        return None

    def _refuse_base(self, base: Any, wanted: str) -> None:
        if not self._lenient and base is not None:
            raise self._failed(f"{self._last_place()} is {kind_of(base)}, not {wanted}")

    def _project(self, node: Any, base: list[Any] | None) -> list[Any] | None:
        if base is None:
            return None
        found = (self._leniently(node, item) for item in base)
        return [item for item in found if item is not None]

    def visit_comparator(self, node: Any, value: Any) -> Any:
        left, right = (self.visit(child, value) for child in node["children"])
        self._position = node["start"]
        if node["value"] in self._EQUALITY_OPS:
            self._charge(left)
            return self.COMPARATOR_FUNC[node["value"]](left, right)
        if isinstance(left, str) != isinstance(right, str) and None not in (left, right):
            raise self._failed(f"{kind_of(left)} and {kind_of(right)} have no order")
        return self._order(left, right, operation=node["value"])

    def _order(self, left: Any, right: Any, *, operation: str) -> Any:
        if any(isinstance(side, bool) or not isinstance(side, int | float | str)
               for side in (left, right)):  # fmt: skip
            return None
        return self.COMPARATOR_FUNC[operation](left, right)

    def visit_multi_select_list(self, node: Any, value: Any) -> Any:
        return self._built(super().visit_multi_select_list(node, value))

    def visit_multi_select_dict(self, node: Any, value: Any) -> Any:
        return self._built(super().visit_multi_select_dict(node, value))

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        name = node["value"]
        lenient = name == "not_null"
        visit = self._leniently if lenient else self.visit
        arguments = [visit(child, value) for child in node["children"]]
        self._position = node["start"]
        self._check_arguments(name, arguments)
        self._lenient += 1  # what an &expression meets inside an element is like a projection
        try:
            return self._built_by(name, self._functions.call_function(name, arguments))
        finally:
            self._lenient -= 1

    def _check_arguments(self, name: str, arguments: list[Any]) -> None:
        self._spend(sum(map(_breadth, arguments)))
        if name == "join" and all(isinstance(part, str) for part in arguments[1]):
            # The result is measured before it exists.
            separator = len(arguments[0]) if isinstance(arguments[0], str) else 0
            size = sum(map(len, arguments[1])) + separator * len(arguments[1])
            if size > MAX_SIZE:
                raise self._failed(f"join() would make a string of {size:,} characters")
        if name in ("to_string", "contains"):
            self._charge(arguments[0])

    def _built_by(self, name: str, result: Any) -> Any:
        return self._built(result) if name == "merge" else result

    def _built(self, value: Any) -> Any:
        """Check the size of a value that the expression made, and charge for it.

        Without this, ``[@, @] | [@, @] | …`` would double its value with every six characters.
        """
        self._charge(value)
        return value

    def _charge(self, value: Any) -> None:
        if isinstance(value, list | dict | str):
            copier = Copier(MAX_SIZE)
            copier.copy(value, MAX_DEPTH)
            self._spend((MAX_SIZE - copier.left) // 16)


_VISITORS = {
    name.removeprefix("visit_"): getattr(Interpreter, name)
    for name in dir(Interpreter)
    if name.startswith("visit_")
}


def _breadth(value: Any) -> int:
    if isinstance(value, list | dict):
        return len(value)
    return len(value) // 64 if isinstance(value, str) else 0


def _type_message(error: JMESPathTypeError) -> str:
    # The library's own message shows the value, which may be a secret.
    wanted = ", ".join(str(kind) for kind in error.expected_types)
    actual = _JSON_TYPES.get(error.actual_type, error.actual_type)
    return f"{error.function_name}() takes {wanted}, not {actual}"
