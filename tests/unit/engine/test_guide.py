"""Every example of the guide to pipelines does what is written below it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import orjson
import pytest
from enginebench import Bench

from ordinaut.engine.lengths import format_instant
from ordinaut.engine.outcome import Failed, Outcome, Succeeded
from ordinaut.engine.pipeline import STEP_KEYS
from ordinaut.extensions.core import tools

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "pipelines.md").read_text()
EXAMPLES = re.findall(r"```json\n(.*?)```\s+```text\n(.*?)\n```", GUIDE, re.DOTALL)


def in_words(outcome: Outcome) -> str:
    if isinstance(outcome, Succeeded):
        return f"succeeded: {orjson.dumps(outcome.output).decode()}"
    if isinstance(outcome, Failed):
        return f"failed: {str(outcome.error).splitlines()[0]}"
    (wait,) = outcome.waits
    what = {"until": "", "event": f"event {wait.topic} ", "approval": f'approval "{wait.message}" '}
    assert wait.until is not None
    return f"suspended: {what[wait.kind]}until {format_instant(wait.until)}"


@pytest.mark.parametrize(("payload", "expected"), EXAMPLES)
async def test_examples(payload: str, expected: str) -> None:
    bench = Bench()
    tools.register(bench.registry)

    assert in_words(await bench.execute(json.loads(payload))) == expected


def test_there_is_an_example_for_every_key() -> None:
    text = "".join(payload for payload, _ in EXAMPLES)

    assert len(EXAMPLES) == len(re.findall("```json", GUIDE))
    assert [key for key in STEP_KEYS if f'"{key}"' not in text] == []
