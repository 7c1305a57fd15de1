"""Templates keep types, name what is missing, and never run what they insert."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ordinaut.engine.expression import MAX_LENGTH, MAX_NESTING, Reference, parse_expression
from ordinaut.engine.template import (
    evaluate,
    evaluate_condition,
    parse_condition,
    parse_template,
    truth,
)
from ordinaut.errors import InvalidTemplate, TemplateError

DATA = json.loads((Path(__file__).parents[2] / "data" / "template_cases.json").read_text())
NOW = datetime.fromisoformat(DATA["now"])
CONTEXT = DATA["context"]

# JMESPath still reads `foo` as a string, though it is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated string literal")


@pytest.mark.parametrize(
    "case", DATA["cases"], ids=lambda case: f"{case['group']}: {case['value']!r}"[:90]
)
def test_adversarial_cases(case: dict[str, Any]) -> None:
    if "result" in case:
        rendered = evaluate(case["value"], CONTEXT, now=NOW)
        assert rendered == case["result"]
        assert type(rendered) is type(case["result"])
    elif "error" in case:
        with pytest.raises(TemplateError) as caught:
            evaluate(case["value"], CONTEXT, now=NOW)
        assert caught.value.path == case["error"]["path"]
        assert caught.value.details["problem"] == case["error"]["message"]
        assert caught.value.details["position"] == case["error"]["position"]
        assert caught.value.retryable is False
    else:
        with pytest.raises(InvalidTemplate) as refused:
            evaluate(case["value"], CONTEXT, now=NOW)
        assert refused.value.problems[0].path == case["invalid"]["path"]
        assert refused.value.problems[0].message.startswith(case["invalid"]["message"])
        assert refused.value.position == case["invalid"].get("position")


def test_the_data_holds_enough_cases() -> None:
    assert len(DATA["cases"]) >= 150


def test_an_error_shows_the_expression_with_a_caret_below_the_place() -> None:
    with pytest.raises(TemplateError) as caught:
        evaluate({"url": "x ${steps.fetch.boddy} y"}, CONTEXT, now=NOW)

    assert str(caught.value) == (
        'value.url: steps.fetch has no "boddy"; did you mean "body"?\n'
        "  steps.fetch.boddy\n"
        "              ^"
    )


def test_the_caret_stays_in_sight_in_a_long_expression() -> None:
    expression = f"{'params.n || ' * 60}params.zz"

    with pytest.raises(TemplateError) as caught:
        evaluate(f"${{{expression}}}", {"params": {}}, now=NOW)

    shown, caret = str(caught.value).split("\n")[1:]
    assert len(shown) <= 110
    assert shown[caret.index("^") :].startswith("zz")


def test_a_template_is_compiled_once_and_rendered_with_fresh_values() -> None:
    template = parse_template({"list": [1, {"a": "${params.obj}"}]}, path="with")

    first = template.render(CONTEXT, now=NOW)
    first["list"].append("changed")
    first["list"][1]["a"]["changed"] = True

    assert template.render(CONTEXT, now=NOW) == {"list": [1, {"a": {"a": 1}}]}
    assert CONTEXT["params"]["obj"] == {"a": 1}


def test_the_context_may_bring_its_own_now() -> None:
    context = {"now": "2030-01-01T00:00:00+02:00"}

    assert evaluate("${now}", context, now=NOW) == "2030-01-01T00:00:00+02:00"
    assert evaluate("${now+1h}", context, now=NOW) == "2029-12-31T23:00:00Z"


@pytest.mark.parametrize("given", [5, None, "yesterday", "2030-01-01T00:00:00"])
def test_a_now_that_is_no_instant_is_an_error_in_arithmetic(given: Any) -> None:
    with pytest.raises(TemplateError, match="not an RFC 3339 instant"):
        evaluate("${now+1h}", {"now": given}, now=NOW)


def test_now_is_written_in_utc() -> None:
    somewhere = datetime.fromisoformat("2026-03-01T12:00:00+02:00")

    assert evaluate("${now}", {}, now=somewhere) == "2026-03-01T10:00:00Z"
    assert evaluate("${now-2h}", {}, now=somewhere + timedelta(milliseconds=5)) == (
        "2026-03-01T08:00:00.005000Z"
    )


def test_secrets_are_seen_by_name_only() -> None:
    template = parse_template({"key": "${secrets.A}", "all": "${@}"}, path="with")

    rendered = template.render({"params": {}}, now=NOW, secrets={"A": "a-value", "B": "b-value"})

    assert template.secrets == {"A"}
    assert rendered == {"key": "a-value", "all": {"params": {}}}


# Limits


def nested(depth: int) -> Any:
    value: Any = "${params.n}"
    for _ in range(depth):
        value = [value]
    return value


def test_values_nest_to_the_limit_and_no_deeper() -> None:
    parse_template(nested(64), path="with")
    with pytest.raises(InvalidTemplate, match="nested deeper than 64"):
        parse_template(nested(65), path="with")
    with pytest.raises(InvalidTemplate, match="nested deeper than 64"):
        parse_template(nested(900), path="with")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a" * (MAX_LENGTH + 1), "longer than 4096"),
        ("(" * 2000, "nested too deeply|not complete"),
        ("(" * 2000 + "a" + ")" * 2000, "nested too deeply|deeper"),
        ("!" * 2000 + "a", "nested too deeply|deeper"),
        (f"a{'[0]' * 10}{'.b[?c]' * 600}", "nested"),
        ("||".join(["a"] * (MAX_NESTING + 2)), "deeper than 64"),
        ("`" + "[" * 500 + "]" * 500 + "`", "nested deeper than 64"),
    ],
)
def test_expressions_have_limits(expression: str, message: str) -> None:
    with pytest.raises(InvalidTemplate, match=message):
        parse_template(f"${{{expression}}}", path="with")


def test_long_chains_of_names_are_no_nesting() -> None:
    parse_template(f"${{params{'.a' * 1000}}}", path="with")


@pytest.mark.parametrize(
    "expression",
    [
        "|".join(["[@, @]"] * 60),
        "|".join(["{a: @, b: @}"] * 60),
        "|".join(["join('', [@, @])"] * 60).replace("@", "to_string(@)"),
        "|".join(["[@, @][]"] * 60),
        "|".join(["merge({a: @}, {b: @})"] * 60),
        "|".join(["[to_string(@), to_string(@)]"] * 60),
        "params.items[*].[@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@,@][]",
        "[" + ",".join(["contains(params.items, params.items)"] * 80) + "]",
        "[" + ",".join(["params.items == params.copy"] * 100) + "]",
        "[" + ",".join(["sort(params.items)"] * 200) + "]",
        "params.items[*].join('', [" + ",".join(["params"] * 1) + "])",
        "map(&map(&map(&map(&@, @), @), @), params.squares)",
    ],
)
def test_no_expression_costs_much(expression: str) -> None:
    items = [f"item {i}" for i in range(20_000)]
    squares = [[[list(range(30))] * 30] * 30]
    context = {"params": {"items": items, "copy": list(items), "squares": squares}}

    started = time.perf_counter()
    with contextlib.suppress(TemplateError):
        evaluate_condition(expression, context, now=NOW)
    assert time.perf_counter() - started < 3


def test_what_is_rendered_is_bounded() -> None:
    context = {"params": {"text": "x" * 600_000}}

    assert len(evaluate("${params.text}", context, now=NOW)) == 600_000
    for value in ("${params.text}${params.text}", ["${params.text}", "${params.text}"]):
        with pytest.raises(TemplateError, match="larger than"):
            evaluate(value, context, now=NOW)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "nan is not a JSON number"),
        (float("-inf"), "-inf is not a JSON number"),
        (b"x", "a Python bytes is not JSON"),
        ({1: "x"}, "a key is a number"),
        ({"a": (1, 2)}, "a Python tuple"),
        (datetime.now(UTC), "a Python datetime"),
        (2**64, "64 bits"),
        ("\ud800", "lone surrogate"),
        ("${'\udfff'}", "lone surrogate"),
    ],
)
def test_what_is_not_json_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidTemplate, match=message):
        parse_template(value, path="with")


# Conditions


@pytest.mark.parametrize("falsy", [None, False, "", [], {}])
def test_null_false_and_empty_are_false(falsy: Any) -> None:
    assert truth(falsy) is False
    assert parse_condition("params.x", path="if").evaluate({"params": {"x": falsy}}, now=NOW) is (
        False
    )


@pytest.mark.parametrize("truthy", [0, 0.0, True, "0", "false", [None], {"a": None}])
def test_all_else_is_true_zero_too(truthy: Any) -> None:
    assert truth(truthy) is True


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("params.n == `7`", True),
        ("${params.n == `7`}", True),
        ("  ${ params.n == `7` }  ", True),
        ("params.nothing.at.all", False),
        ("nothing", False),
        ("params.nothing > `5`", False),
        ("!params.nothing.x", True),
        ("!params.name", False),
        ("steps.fetch.body.items[?id == `2`]", True),
        ("length(steps.fetch.body.items) > `2` && params.t", True),
        ("now > '2026-01-01T00:00:00Z'", True),
        ("${now-1d}", True),
        (True, True),
        (False, False),
    ],
)
def test_conditions_hold_or_not(condition: Any, holds: bool) -> None:
    assert parse_condition(condition, path="if").evaluate(CONTEXT, now=NOW) is holds


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("${params.n} == 7", "nothing may stand outside"),
        ("${params.n} == ${params.n}", "nothing may stand outside"),
        ("${params.n", "nothing may stand outside"),
        ("", "empty"),
        ("${}", "empty"),
        ("params.n = 7", "=="),
        (5, "not a number"),
        (None, "not null"),
        ("a\0", "NUL"),
    ],
)
def test_conditions_that_can_not_be_read_are_refused(condition: Any, message: str) -> None:
    with pytest.raises(InvalidTemplate, match=message):
        parse_condition(condition, path="payload.pipeline[0].if")


def test_a_condition_that_fails_says_where() -> None:
    with pytest.raises(TemplateError) as caught:
        evaluate_condition("params.t && params.n > 'a'", CONTEXT, now=NOW)

    assert caught.value.details["position"] == 21
    assert str(caught.value).startswith("condition: a number and a string have no order\n")


def test_a_condition_over_a_large_value_copies_nothing() -> None:
    context = {"steps": {"large": "x" * 3_000_000}}

    assert parse_condition("steps.large", path="if").evaluate(context, now=NOW)


# Expressions


def test_references_say_what_is_taken_from_the_context() -> None:
    expression = parse_expression("(steps.a.b[?c == `1`].d | [0]) || params.x && map(&f, event)")

    assert {(r.root, r.member) for r in expression.references} == {
        ("steps", "a"),
        ("params", "x"),
        ("event", None),
    }
    assert parse_expression("now-1d").references == (Reference("now", None, 0, 0),)
