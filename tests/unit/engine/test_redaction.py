"""What a secret looks like after others have handled it, and that it is found."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from enginebench import Bench, step, steps
from hypothesis import given
from hypothesis import strategies as st

from ordinaut.engine.outcome import Failed, Succeeded
from ordinaut.engine.redaction import MIN_LENGTH, REPLACEMENT, Redactor
from ordinaut.engine.tool import MAX_LOG_MESSAGE, LogEntry, ToolContext
from ordinaut.errors import ToolError
from ordinaut.model import Json

SECRET = 'p/ss "wörd"+1&x=%\n'


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        urlencode({"q": SECRET}),
        json.dumps({"a": SECRET}),
        json.dumps({"a": SECRET}, ensure_ascii=False),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(f"user:{SECRET}".encode()).decode(),
    ],
)
def test_a_secret_is_found_in_every_usual_spelling(spelling: str) -> None:
    found = Redactor([SECRET]).text(f"before {spelling} after")

    assert REPLACEMENT in found
    assert spelling not in found
    assert found.startswith("before ")
    assert found.endswith(" after")


@given(st.text(min_size=6, max_size=40), st.binary(max_size=9), st.binary(max_size=9))
def test_a_secret_is_found_within_base64(secret: str, before: bytes, after: bytes) -> None:
    text = base64.b64encode(before + secret.encode() + after).decode()

    assert REPLACEMENT in Redactor([secret]).text(text)


@given(st.lists(st.text(min_size=MIN_LENGTH, max_size=20), min_size=1, max_size=5), st.data())
def test_no_secret_is_left_whatever_the_others_are(secrets: list[str], data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.sampled_from([*secrets, " ", "x"]), max_size=10))
    redacted = Redactor(secrets).text("|".join(pieces))

    left = redacted.replace(REPLACEMENT, "|")
    assert not any(secret in left for secret in secrets if REPLACEMENT not in secret)


def test_a_secret_that_comes_back_as_a_number_is_found() -> None:
    assert Redactor(["12345678"]).json({"pin": 12345678, "n": 1}) == {"pin": REPLACEMENT, "n": 1}


async def test_what_one_step_sent_a_later_one_does_not_bring_back(bench: Bench) -> None:
    bench.secrets = {"TOKEN": "s3cr3t-t0ken"}
    kept: list[Json] = []

    async def send(arguments: dict[str, Any]) -> Json:
        kept.append(arguments["key"])
        return None

    async def fetch(arguments: dict[str, Any]) -> Json:
        return {"kept": kept[0]}

    bench.tool("test.send", send)
    bench.tool("test.fetch", fetch)
    outcome = await bench.execute(
        steps(
            step("test.send", id="a", with_={"key": "${secrets.TOKEN}"}),
            step("test.fetch", id="b", with_={}),
            output="${steps.b.kept}",
        )
    )

    assert isinstance(outcome, Succeeded)
    assert kept == ["s3cr3t-t0ken"]
    assert outcome.output == REPLACEMENT


async def test_a_secret_is_not_cut_in_half(bench: Bench) -> None:
    token = "s3cr3t-t0ken" * 4
    bench.secrets = {"TOKEN": token}

    async def shout(arguments: dict[str, Any], context: ToolContext) -> Json:
        padding = "x" * (MAX_LOG_MESSAGE - 8)
        context.log("info", padding + arguments["key"])
        raise ToolError("y" * 4088 + arguments["key"])

    bench.tool("test.shout", shout)
    outcome = await bench.execute(steps(step("test.shout", with_={"key": "${secrets.TOKEN}"})))

    assert isinstance(outcome, Failed)
    [line] = [entry for entry in bench.journal.reports if isinstance(entry, LogEntry)]
    for text in (line.message, outcome.error.message):
        assert token[:4] not in text


async def test_an_expression_that_fails_does_not_show_the_secret(bench: Bench) -> None:
    bench.secrets = {"TOKEN": "s3cr3t-t0ken"}

    outcome = await bench.execute(steps(step(with_={"a": "${abs(secrets.TOKEN)}"})))

    assert isinstance(outcome, Failed)
    assert "s3cr3t-t0ken" not in repr((outcome.error, outcome.error.details, outcome.steps))
