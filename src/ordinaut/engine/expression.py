"""One JMESPath expression: parsed with positions, checked, evaluated within a budget.

The grammar and the functions are those of the ``jmespath`` library. Three things are ours,
because a scheduler must not fail in silence:

* Every name keeps its position, so an error can point at it.
* In *strict* mode (templates) a path that does not exist is an error that names it; in lenient
  mode (conditions) it is ``null``, as JMESPath says. Strict evaluation is lenient where a missing
  value is asked about on purpose: left of ``||``, in the arguments of ``not_null()``, inside
  projections and filters (``items[*].name``, ``items[?ok]``) and in ``&expressions``.
* Evaluation has a budget: of nodes visited, and of the size of every value that is built.

What can be known without a value is refused when the expression is parsed: unknown functions,
wrong numbers of arguments, ``&expr`` where no function takes it, ``secrets`` other than by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

from jmespath import ast
from jmespath.exceptions import JMESPathError, LexerError, ParseError
from jmespath.functions import Functions
from jmespath.parser import Parser

from ordinaut.engine import values
from ordinaut.engine.interpreter import EvaluationError, Interpreter
from ordinaut.engine.lengths import format_instant, parse_instant, parse_shift
from ordinaut.engine.nearest import hint
from ordinaut.model import Json

MAX_LENGTH = 4096
MAX_NESTING = 64

Node: TypeAlias = dict[str, Any]  # jmespath's AST: type, value, children; ours adds start


class ExpressionError(ValueError):
    """An expression that can not be parsed; ``position`` is its 0-based offset."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that an expression takes from the context: ``steps`` and, if given, ``fetch``."""

    root: str
    member: str | None
    position: int
    member_position: int


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. ``keys`` is set for a plain path and spares the interpreter."""

    text: str
    node: Node
    references: tuple[Reference, ...]
    keys: tuple[str, ...] | None
    shift: timedelta | None

    @property
    def secrets(self) -> frozenset[str]:
        """The names of the secrets it needs."""
        members = (r.member for r in self.references if r.root == "secrets")
        return frozenset(member for member in members if member is not None)

    def search(
        self,
        context: Json,
        *,
        now: datetime,
        secrets: Mapping[str, str] | None = None,
        strict: bool,
    ) -> Json:
        """Return the value; raise :class:`EvaluationError` where there is none."""
        if self.shift is not None:
            return self._shifted(context, now)
        value = context
        for key in self.keys or ():
            if type(value) is not dict or key not in value:
                break
            value = value[key]
        else:
            if self.keys is not None:
                return value
        root = self._root(context, now, secrets)
        return Interpreter(self.text, strict=strict).evaluate(self.node, root)

    def _root(self, context: Json, now: datetime, secrets: Mapping[str, str] | None) -> Json:
        """Return the context with the instant and the secrets that are asked for by name."""
        added: dict[str, Json] = {}
        if any(reference.root == "now" for reference in self.references):
            added["now"] = format_instant(now)
        root = {**added, **context} if added and isinstance(context, dict) else context
        if secrets is not None and self.secrets:
            known = {name: secrets[name] for name in self.secrets if name in secrets}
            root = {**root, "secrets": known}
        return root

    def _shifted(self, context: Json, now: datetime) -> str:
        assert self.shift is not None
        base: datetime | None = now
        if isinstance(context, dict) and "now" in context:
            given = context["now"]
            base = parse_instant(given) if isinstance(given, str) else None
        if base is None:
            raise EvaluationError("now in the context is not an RFC 3339 instant", 0)
        try:
            return format_instant(base + self.shift)
        except (OverflowError, ValueError):
            raise EvaluationError("the instant is outside the years 1 to 9999", 0) from None


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> Expression:
    """Parse and check an expression; raise :class:`ExpressionError`."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression is longer than {MAX_LENGTH} characters", MAX_LENGTH)
    if not text.strip():
        raise ExpressionError("the expression is empty", 0)
    shift = parse_shift_checked(text)
    if shift is not None:
        now = Reference("now", None, text.index("now"), 0)
        return Expression(text, {"type": "current", "children": []}, (now,), None, shift)
    node = _parse(text)
    _check(node)
    references = tuple(_references(node))
    return Expression(text, node, references, _plain_path(node), None)


def parse_shift_checked(text: str) -> timedelta | None:
    """Return the shift of ``now+24h``; a sum that no timedelta holds is refused."""
    try:
        return parse_shift(text)
    except OverflowError:
        raise ExpressionError("the length of time is too large", 0) from None


def _parse(text: str) -> Node:
    try:
        # _do_parse is parse() without the library's cache, which is keyed by text alone and
        # shared with every other user of jmespath in the process.
        node: Node = _PositionParser()._do_parse(text).parsed
    except LexerError as error:
        raise ExpressionError(_lexer_message(error), error.lexer_position) from None
    except ParseError as error:
        raise ExpressionError(_parse_message(error, text), error.lex_position) from None
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply", 0) from None
    except (JMESPathError, IndexError) as error:
        # The library looks two tokens ahead without asking whether they are there: "[".
        known = isinstance(error, JMESPathError)
        message = str(error) if known else "the expression is not complete"
        raise ExpressionError(message, len(text)) from None
    return node


def _lexer_message(error: LexerError) -> str:
    found = str(error.lexer_value)[:1]
    if found == "=":
        return 'a single "=" has no meaning; compare with "=="'
    if found in "'\"`":
        return f"{found} is not closed, or what it holds can not be read"
    if found and found in "+-/%":
        return (
            f'"{found}" has no meaning here: there is no arithmetic but "now" with lengths of '
            "time, such as now-7d; a name with a hyphen is written in double quotes"
        )
    if found.isalpha():
        return f"a name with {found!r} is written in double quotes"
    return f"{found!r} has no meaning here"


def _parse_message(error: ParseError, text: str) -> str:
    if error.lex_position >= len(text):
        return "the expression is not complete"
    return f"{str(error.token_value)!r} is not expected here"


class _PositionParser(Parser):  # type: ignore[misc]  # jmespath has no types
    """The library's parser, with ``start`` on fields, indexes, functions and literals."""

    def _token_nud_unquoted_identifier(self, token: Node) -> Node:
        return {**super()._token_nud_unquoted_identifier(token), "start": token["start"]}

    def _token_nud_quoted_identifier(self, token: Node) -> Node:
        return {**super()._token_nud_quoted_identifier(token), "start": token["start"]}

    def _token_nud_literal(self, token: Node) -> Node:
        return {**super()._token_nud_literal(token), "start": token["start"]}

    def _token_nud_not(self, token: Node) -> Node:
        # The library reads !a.b as (!a).b, which is always null. A dot binds tighter here, as
        # an index does there.
        node: Node = ast.not_expression(self._expression(self.BINDING_POWER["dot"] - 1))
        return node

    def _token_nud_expref(self, token: Node) -> Node:
        return {**super()._token_nud_expref(token), "start": token["start"]}

    def _token_led_lparen(self, left: Node) -> Node:
        return {**super()._token_led_lparen(left), "start": left.get("start", 0)}

    def _parse_index_expression(self) -> Node:
        start = self._lookahead_token(0)["start"]
        return {**super()._parse_index_expression(), "start": start}

    def _parse_comparator(self, left: Node, comparator: str) -> Node:
        start = self._lookahead_token(-1)["start"]
        return {**super()._parse_comparator(left, comparator), "start": start}


def _children(node: Node) -> list[Node]:
    # The children of a slice are numbers.
    return [] if node["type"] == "slice" else node["children"]


def _check(root: Node) -> None:
    """Refuse what can be known to be wrong without a value."""
    pending = [(root, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_NESTING:
            raise ExpressionError(
                f"the expression is nested deeper than {MAX_NESTING} levels", node.get("start", 0)
            )
        if node["type"] == "function_expression":
            _check_function(node)
        elif node["type"] == "expref" and not node.get("allowed"):
            raise ExpressionError(
                "&expression stands only as an argument of functions such as sort_by()",
                node["start"],
            )
        elif node["type"] == "literal":
            _check_literal(node)
        elif node["type"] == "slice" and node["children"][2] == 0:
            raise ExpressionError("the step of a slice can not be 0", node["start"])
        pending.extend((child, depth + 1) for child in _children(node))


def _check_literal(node: Node) -> None:
    try:
        values.copy_json(node["value"])
    except values.NotJson as error:
        message = f"the literal can not be used: {error.message}"
        raise ExpressionError(message, node["start"]) from None


def _check_function(node: Node) -> None:
    table = Functions.FUNCTION_TABLE
    name, arguments = node["value"], node["children"]
    if name not in table:
        raise ExpressionError(f'unknown function "{name}"{hint(name, table)}', node["start"])
    signature = table[name]["signature"]
    variadic = bool(signature) and bool(signature[-1].get("variadic"))
    if len(arguments) < len(signature) or (len(arguments) > len(signature) and not variadic):
        wanted = f"{'at least ' if variadic else ''}{len(signature)}"
        raise ExpressionError(
            f"{name}() takes {wanted} argument(s), not {len(arguments)}", node["start"]
        )
    for position, argument in enumerate(arguments):
        types = signature[min(position, len(signature) - 1)]["types"]
        if argument["type"] == "expref" and "expref" in types:
            argument["allowed"] = True


def _references(root: Node) -> Iterator[Reference]:
    """Yield what the expression takes from the context itself, not from a value inside it."""
    pending = [root]
    while pending:
        node = pending.pop()
        kind, children = node["type"], _children(node)
        if kind == "field":
            yield _reference(node, None)
        elif kind in ("subexpression", "index_expression", "pipe", "projection", "value_projection",
                      "filter_projection"):  # fmt: skip
            # Only the first child sees the context; the others see what it yields.
            first, then = children[0], children[1]
            if kind == "subexpression" and first["type"] == "field" and then["type"] == "field":
                yield _reference(first, then)
            else:
                pending.append(first)
        elif kind != "expref":
            pending.extend(children)


def _reference(root: Node, member: Node | None) -> Reference:
    if root["value"] == "secrets" and member is None:
        raise ExpressionError("name one secret: secrets.NAME", root["start"])
    if member is None:
        return Reference(root["value"], None, root["start"], root["start"])
    return Reference(root["value"], member["value"], root["start"], member["start"])


def _plain_path(node: Node) -> tuple[str, ...] | None:
    if node["type"] == "field":
        return (node["value"],)
    if node["type"] != "subexpression" or any(c["type"] != "field" for c in node["children"]):
        return None
    return tuple(child["value"] for child in node["children"])
