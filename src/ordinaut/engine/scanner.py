"""Finding the ``${…}`` of a text, and pointing at what is wrong in one."""

from __future__ import annotations

from collections.abc import Iterator

from ordinaut.engine import values
from ordinaut.engine.expression import Expression, ExpressionError, parse_expression
from ordinaut.errors import FieldProblem, InvalidTemplate, TemplateError

CARET_WIDTH = 100  # of the expression shown in a message


def split_text(text: str, path: str) -> Iterator[str | Expression]:
    """Yield the plain parts of a text and the expressions between them."""
    position = 0
    while position < len(text):
        opening = opening_of(text, position)
        plain = text[position:opening].replace("$${", "${")
        if plain:
            yield plain
        if opening is None:
            return
        end = _closing(text, opening + 2)
        if end is None:
            raise invalid(path, 'a "${" is not closed with "}"', expression=text, position=opening)
        yield parse_at(text[opening + 2 : end], path)
        position = end + 1


def opening_of(text: str, start: int) -> int | None:
    """Return where the next ``${`` that is not escaped begins."""
    while (found := text.find("${", start)) >= 0:
        if found == 0 or text[found - 1] != "$" or found - 1 < start:
            return found
        start = found + 2
    return None


def _closing(text: str, start: int) -> int | None:
    """Return where the ``}`` of an expression stands, past strings and nested braces."""
    depth, quote, position = 0, "", start
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\":
                position += 1
            elif char == quote:
                quote = ""
        elif char in "'\"`":
            quote = char
        elif char == "{":
            depth += 1
        elif char == "}":
            if depth == 0:
                return position
            depth -= 1
        position += 1
    return None


def parse_at(text: str, path: str) -> Expression:
    """Parse an expression; raise :class:`InvalidTemplate` that points at ``path``."""
    try:
        return parse_expression(text)
    except ExpressionError as error:
        raise invalid(path, error.message, expression=text, position=error.position) from None


def parse_bare(text: str, *, path: str) -> Expression:
    """Parse one expression that may stand bare or as ``${…}``."""
    stripped = text.strip()
    if not stripped.startswith("${"):
        return parse_at(text, path)
    end = _closing(stripped, 2)
    if end != len(stripped) - 1:
        message = "write one expression, such as ${a == b}; nothing may stand outside of it"
        raise invalid(path, message, expression=stripped, position=0 if end is None else end + 1)
    return parse_at(stripped[2:-1], path)


def check_text_at(text: str, path: str) -> None:
    """Refuse a text that no database column can hold."""
    try:
        values.check_text(text)
    except values.NotJson as error:
        raise invalid(path, error.message) from None


def failed(path: str, message: str, *, expression: Expression, position: int) -> TemplateError:
    """Return the error of an expression that has no value."""
    details = {"expression": expression.text, "position": position, "problem": message}
    text = f"{path}: {message}\n{caret(expression.text, position)}"
    return TemplateError(text, path=path, details=details)


def invalid(
    path: str, message: str, *, expression: str = "", position: int | None = None
) -> InvalidTemplate:
    """Return the error for what can not be parsed."""
    text = f"{path}: {message}"
    if position is not None:
        message += f" (at position {position} of {shorten(expression)!r})"
        text += f"\n{caret(expression, position)}"
    problem = FieldProblem(path, message, InvalidTemplate.code)
    return InvalidTemplate(text, expression=expression, position=position, problems=(problem,))


def shorten(text: str) -> str:
    """Return at most ``CARET_WIDTH`` characters of ``text``."""
    return text if len(text) <= CARET_WIDTH else f"{text[:CARET_WIDTH]}…"


def caret(expression: str, position: int) -> str:
    """Return the expression on one line with a caret below the position."""
    start = max(0, position - CARET_WIDTH // 2)
    shown = "".join(c if c.isprintable() else " " for c in expression[start : start + CARET_WIDTH])
    return f"  {shown}\n  {' ' * (position - start)}^"
