"""The examples of the documentation are executed, and their answers are those that are shown.

====================================  ==========================================================
a block                               is
====================================  ==========================================================
``sh`` that calls curl                run by bash with ``URL``, ``KEY`` and ``RUN`` set
``python`` that reads ``os.environ``  run with ``URL``, ``KEY`` and ``REDIS_URL`` set
``json`` titled ``POST /tasks`` …     sent as the body of that request
``json`` titled ``payload``           stored as a task and run at once
``json`` titled ``422`` …             the status and a part of the answer to the request before
``json`` titled ``answer``            a part of what the block before wrote
``json`` titled ``run``               a part of the run before, once it has come so far
====================================  ==========================================================

``…`` in a shown text stands for any text, and at the end of a list for any more items. ``{id}``
and ``{run_id}`` in a title are those of the task and the run before.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pages import Block, blocks, pages

pytestmark = [pytest.mark.xdist_group("docs")]

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *pages(ROOT / "docs")]
REQUEST = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S*)")
API = "http://127.0.0.1:8080"  # how the pages write the address of the API
PATIENCE = 30  # seconds until a run must have come so far
NEVER = {"schedule_kind": "once", "schedule_expr": "2100-01-01T00:00:00Z"}


def is_executed(block: Block) -> bool:
    if block.language == "sh":
        return "curl" in block.text
    if block.language == "python":
        return "os.environ" in block.text
    return block.language == "json" and (
        block.title in ("payload", "answer", "run")
        or block.title.isdigit()
        or REQUEST.fullmatch(block.title) is not None
    )


def difference(shown: Any, actual: Any, place: str = "") -> str:
    """Say where ``actual`` is not what is shown; nothing when it is."""
    if isinstance(shown, dict) and isinstance(actual, dict):
        if missing := shown.keys() - actual.keys():
            return f"{place} has no {', '.join(sorted(missing))}"
        found = (difference(shown[key], actual[key], f"{place}.{key}") for key in shown)
        return next(filter(None, found), "")
    if isinstance(shown, list) and isinstance(actual, list):
        if len(shown) > 1 and shown[-1] == "…":
            shown = shown[:-1]
            actual = actual[: len(shown)]
        if len(shown) != len(actual):
            return f"{place} has {len(actual)} items, not {len(shown)}: {actual}"
        pairs = enumerate(zip(shown, actual, strict=True))
        found = (difference(s, a, f"{place}[{i}]") for i, (s, a) in pairs)
        return next(filter(None, found), "")
    if isinstance(shown, str) and "…" in shown and actual is not None:
        text = actual if isinstance(actual, str) else json.dumps(actual)
        pattern = ".*".join(map(re.escape, shown.split("…")))
        return "" if re.fullmatch(pattern, text, re.DOTALL) else f"{place} is {actual!r}"
    return "" if shown == actual else f"{place} is {actual!r}, not {shown!r}"


class Reader:
    """Somebody who does what a page says, from its top to its end."""

    def __init__(self, dev: dict[str, Any], client: httpx2.Client) -> None:
        self.dev = dev
        self.client = client
        self.ids: dict[str, str] = {}
        self.status = 0
        self.said: Any = None
        self.variables = Path(dev["home"]) / "variables"
        self.variables.write_text("")

    def do(self, block: Block) -> None:
        text = block.text.replace(API, self.dev["url"])
        request = REQUEST.fullmatch(block.title)
        if block.language == "sh":
            self.shell(text)
        elif block.language == "python":
            self.run(sys.executable, "-c", text)
        elif request:
            path = re.sub(r"\{(\w+)\}", lambda m: self.ids[m[1]], request[2])
            self.send(request[1], path, json.loads(text))
        elif block.title == "payload":
            self.send("POST", "/tasks", {"title": "example", **NEVER, "payload": json.loads(text)})
            if self.status == 201:
                self.send("POST", f"/tasks/{self.ids['id']}/run_now", None)
        elif block.title == "run":
            self.wait_for_run(json.loads(text))
        else:
            self.compare(block.title, json.loads(text))

    def shell(self, text: str) -> None:
        # What one block sets, the next one sees, as in one terminal.
        self.run(
            "bash", "-eu", "-c", f"set -a; . {self.variables}\n{text}\nexport -p >{self.variables}"
        )

    def run(self, *command: str) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "URL": self.dev["url"],
            "KEY": self.dev["api_key"],
            "REDIS_URL": self.dev["redis_url"],
            "RUN": self.ids.get("run_id", ""),
        }
        done = subprocess.run(
            command,
            cwd=self.dev["home"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.status, self.said = 0, done.stdout
        try:
            self.learn(json.loads(done.stdout))
        except json.JSONDecodeError:
            return

    def send(self, method: str, path: str, body: Any) -> None:
        answer = self.client.request(method, path, json=body)
        self.status = answer.status_code
        self.learn(answer.json() if answer.content else None)

    def learn(self, said: Any) -> None:
        self.said = said
        if isinstance(said, dict) and "task_version" in said:
            self.ids["run_id"] = said["id"]
        elif isinstance(said, dict) and "schedule_kind" in said:
            self.ids["id"] = said["id"]

    def wait_for_run(self, shown: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            self.send("GET", f"/runs/{self.ids['run_id']}", None)
            found = difference(shown, self.said, "run")
            if not found:
                return
            ended = self.said["finished_at"] is not None
            hopeless = ended or time.monotonic() > deadline
            assert not hopeless, f"{found}\n{json.dumps(self.said)}"
            time.sleep(0.05)

    def compare(self, title: str, shown: Any) -> None:
        if title.isdigit():
            assert self.status == int(title), self.said
        found = difference(shown, self.said, "answer")
        assert not found, f"{found}\n{self.said}"

    def expect_acceptance(self, block: Block) -> None:
        """Refusals are shown with their status; whatever is not shown as one was accepted."""
        assert block.title.isdigit() or self.status < 400, self.said


def executed(page: Path) -> list[Block]:
    return [block for block in blocks(page) if is_executed(block)]


@pytest.mark.parametrize("page", [p for p in PAGES if executed(p)], ids=lambda page: page.stem)
def test_the_examples_of_a_page_do_what_it_says(page: Path, dev: dict[str, Any]) -> None:
    found = executed(page)
    with httpx2.Client(
        base_url=dev["url"], headers={"Authorization": f"Bearer {dev['api_key']}"}, timeout=PATIENCE
    ) as client:
        reader = Reader(dev, client)
        for block, following in zip(found, [*found[1:], None], strict=True):
            try:
                reader.do(block)
                if following is None or not following.title.isdigit():
                    reader.expect_acceptance(block)
            except (AssertionError, json.JSONDecodeError) as error:
                raise AssertionError(f"{block.place}: {error}") from None


def test_what_is_not_as_shown_is_noticed() -> None:
    assert difference({"a": 1}, {"a": 1, "b": 2}) == ""
    assert difference({"a": [1, "…"]}, {"a": [1, 2, 3]}) == ""
    assert difference("run … ended", "run 7 ended") == ""
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == ".a.b is 2, not 1"
    assert difference([1], [1, 2]) == " has 2 items, not 1: [1, 2]"
    assert difference({"c": 1}, {"a": 1}) == " has no c"
