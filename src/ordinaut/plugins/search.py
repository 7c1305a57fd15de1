"""JMESPath over a value, for tools: the same expressions as in templates and conditions."""

from __future__ import annotations

from ordinaut.engine import values
from ordinaut.engine.expression import ExpressionError, parse_expression
from ordinaut.engine.interpreter import EvaluationError, Interpreter
from ordinaut.errors import ToolError
from ordinaut.model import Json


def search(expression: str, value: Json) -> Json:
    """Return what ``expression`` finds in ``value``; raises :class:`ToolError` with its place."""
    try:
        parsed = parse_expression(expression)
        found = Interpreter(parsed.text, strict=False).evaluate(parsed.node, value)
        return values.copy_json(found)
    except (ExpressionError, EvaluationError) as error:
        message = f"{error.message} (at {error.position} in {expression!r})"
        raise ToolError(message, retryable=False) from None
    except values.NotJson as error:
        raise ToolError(f"the result can not be used: {error.message}", retryable=False) from None
