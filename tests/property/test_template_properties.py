"""Whatever is rendered: a value or a named error, never anything executed, linear in size."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordinaut.engine.template import evaluate, evaluate_condition, parse_template
from ordinaut.errors import InvalidTemplate, TemplateError

pytestmark = pytest.mark.filterwarnings("ignore:deprecated string literal")
NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
# Pieces that, joined at random, look like templates far more often than random text does.
pieces = st.sampled_from(
    ["${", "}", "$", "$${", "{", "params", ".", "a", "[", "]", "0", "*", "?", "'", '"', "`", "|",
     "||", "&&", "&", "!", "==", "<", "@", "(", ")", ",", ":", "length", "now", "+1d", "-7d",
     "to_string", "sort_by", "\\", " ", "é", "secrets", "__class__", "1", "`1`", "'x'"]
)  # fmt: skip
templates = st.lists(pieces, max_size=20).map("".join)
contexts = st.fixed_dictionaries({"params": st.dictionaries(st.sampled_from("ab"), json_values)})


@given(template=templates, context=contexts)
def test_rendering_is_total(template: str, context: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidTemplate, TemplateError):
        orjson.dumps(evaluate(template, context, now=NOW))


@given(condition=templates, context=contexts)
def test_conditions_are_total(condition: str, context: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidTemplate, TemplateError):
        orjson.dumps(evaluate_condition(condition, context, now=NOW))


@given(value=json_values)
def test_a_whole_template_keeps_the_value_and_its_types(value: Any) -> None:
    rendered = evaluate("${params.value}", {"params": {"value": value}}, now=NOW)

    assert orjson.dumps(rendered) == orjson.dumps(value)


@given(value=json_values)
def test_a_value_without_templates_is_itself(value: Any) -> None:
    def clean(part: Any) -> Any:
        if isinstance(part, str):
            return part.replace("${", "")
        if isinstance(part, list):
            return [clean(item) for item in part]
        if isinstance(part, dict):
            return {clean(key): clean(item) for key, item in part.items()}
        return part

    plain = clean(value)

    assert orjson.dumps(evaluate(plain, {}, now=NOW)) == orjson.dumps(plain)


@given(text=texts, around=texts)
def test_what_is_inserted_is_never_read_again(text: str, around: str) -> None:
    hostile = f"${{params.other}}{text}$${{x}}${{now}}"
    around = around.replace("$", "")
    context = {"params": {"hostile": hostile, "other": "RESOLVED"}}

    rendered = evaluate(f"{around}${{params.hostile}}{around}", context, now=NOW)

    assert rendered == f"{around}{hostile}{around}"


@given(text=texts)
def test_escaping_makes_any_text_literal(text: str) -> None:
    # A "$" before "${" would become part of the escape, so it is kept apart.
    escaped = text.replace("$", "").replace("{", "$${")

    assert evaluate(escaped, {}, now=NOW) == text.replace("$", "").replace("{", "${")


def cost(size: int) -> float:
    value = {"list": ["text ${params.a} and ${params.b.c || 'x'}"] * size}
    context = {"params": {"a": "v", "b": {}}}
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        parse_template(value, path="with").render(context, now=NOW)
        best = min(best, time.perf_counter() - started)
    return best


def test_rendering_is_linear_in_size() -> None:
    cost(10)
    small, large = cost(500), cost(4000)

    assert large < small * 8 * 4  # quadratic would be 64 times


@settings(max_examples=25)
@given(count=st.integers(1, 2000))
def test_hostile_openings_are_read_once(count: int) -> None:
    for text in ("${" * count, "${'" * count, "$${" * count, "${a}" * count, "${{" * count):
        started = time.perf_counter()
        with contextlib.suppress(InvalidTemplate):
            parse_template(text, path="with")
        assert time.perf_counter() - started < 1
