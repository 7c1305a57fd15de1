"""The official JMESPath compliance cases run through conditions and templates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ordinaut.engine.template import Condition, Template, parse_condition, parse_template
from ordinaut.errors import InvalidTemplate, TemplateError

DATA = Path(__file__).parents[2] / "data" / "jmespath_compliance"
NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
MISSING = re.compile(r"has no|, not an (array|object)")
pytestmark = pytest.mark.filterwarnings("ignore:deprecated string literal")


def cases() -> Iterator[Any]:
    for path in sorted(DATA.glob("*.json")):
        for suite in json.loads(path.read_text()):
            for case in suite["cases"]:
                if "bench" not in case:
                    yield pytest.param(
                        suite["given"], case, id=f"{path.stem}:{case['expression']}"[:80]
                    )


@pytest.mark.parametrize(("given", "case"), list(cases()))
def test_conditions_are_jmespath_to_the_letter(given: Any, case: dict[str, Any]) -> None:
    """Nothing differs."""

    def evaluate() -> Any:
        condition: Condition = parse_condition(case["expression"], path="if")
        return condition.value(given, now=NOW)

    if "error" in case:
        with pytest.raises((InvalidTemplate, TemplateError)):
            evaluate()
    else:
        assert evaluate() == case["result"]


@pytest.mark.parametrize(("given", "case"), list(cases()))
def test_templates_differ_only_in_that_a_missing_path_is_an_error(
    given: Any, case: dict[str, Any]
) -> None:
    """On purpose: where JMESPath finds nothing and says null, a template names what is missing.

    Expressions that the scanner of ``${…}`` can not delimit are syntax errors in JMESPath too.
    """

    def render() -> Any:
        template: Template = parse_template(f"${{{case['expression']}}}", path="with.x")
        return template.render(given, now=NOW)

    if "error" in case:
        with pytest.raises((InvalidTemplate, TemplateError)):
            render()
        return
    rendered, problem = None, ""
    try:
        rendered = render()
    except TemplateError as error:
        problem = str(error.details["problem"])
    if problem:
        assert holds_null_or_nothing(case["result"])
        assert MISSING.search(problem)
    else:
        assert rendered == case["result"]


def holds_null_or_nothing(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(holds_null_or_nothing, value.values()))
    if isinstance(value, list):
        return not value or any(map(holds_null_or_nothing, value))
    return value is None
