"""``ordinaut preview``, ``task`` and ``run``, against a real ``ordinaut api`` process."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from calling import TASK, Server, make_agent, served, settings_of
from ordinaut.cli.main import app, main
from ordinaut.errors import OrdinautError
from ordinaut.store.database import Database


@pytest.fixture(scope="module")
async def server(shared_url: str, shared_db: Database) -> AsyncIterator[Server]:
    """The API as it is started in production."""
    settings = settings_of(shared_url)
    _, key = await make_agent(shared_db, settings, "admin", name="cli")
    async with served(settings, key) as made:
        yield made


Invoke = Callable[..., Result]


@pytest.fixture
def invoke(server: Server) -> Invoke:
    """Calls the command line with the server's address and key."""

    def call(*args: str, stdin: str | None = None) -> Result:
        env = {"ORDINAUT_URL": server.url, "ORDINAUT_API_KEY": server.key}
        return CliRunner().invoke(app, args, env=env, input=stdin)

    return call


def made(invoke: Invoke, **fields: Any) -> str:
    """Create a task and return its id."""
    done = invoke("task", "create", "-", "--json", stdin=json.dumps(TASK | fields))
    assert done.exit_code == 0, done.output
    task_id: str = json.loads(done.stdout)["id"]
    return task_id


def test_a_task_is_created_listed_shown_and_deleted(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    file.write_text(json.dumps(TASK | {"title": "from a file", "labels": {"by": "cli"}}))

    created = invoke("task", "create", str(file))
    listed = invoke("task", "list", "--label", "by:cli", "--json")

    assert "from a file" in created.stdout
    [task] = json.loads(listed.stdout)["items"]
    assert json.loads(invoke("task", "show", task["id"]).stdout) == task
    assert "deleted" in invoke("task", "delete", task["id"]).stdout
    assert json.loads(invoke("task", "list", "--label", "by:cli", "--json").stdout)["items"] == []


def test_what_is_done_to_a_task_shows_in_its_status(invoke: Invoke) -> None:
    task_id = made(invoke)
    for words, status in (
        (("pause", task_id), "paused"),
        (("resume", task_id, "--catchup", "none"), "active"),
        (("snooze", task_id, "--seconds", "60"), "active"),
        (("cancel", task_id), "canceled"),
    ):
        done = invoke("task", *words)
        assert (done.exit_code, words) == (0, words)
        assert status in done.stdout
    assert "canceled" in invoke("task", "list", "--status", "canceled").stdout


def test_a_run_is_started_listed_shown_and_canceled(invoke: Invoke) -> None:
    task_id = made(invoke)
    done = invoke("task", "run", task_id, "--param", "n=1", "--param", "who=Ana", "--json")
    run = json.loads(done.stdout)

    assert run["params"] == {"n": 1, "who": "Ana"}
    listed = json.loads(invoke("run", "list", "--task", task_id, "--json").stdout)
    assert [one["id"] for one in listed["items"]] == [run["id"]]
    assert json.loads(invoke("run", "show", run["id"]).stdout)["steps"] == []
    assert "canceled" in invoke("run", "cancel", run["id"]).stdout
    assert "queued" in invoke("run", "retry", run["id"]).stdout


def test_waiting_ends_with_the_run_or_with_patience(invoke: Invoke) -> None:
    task_id = made(invoke)
    run = json.loads(invoke("task", "run", task_id, "--json").stdout)

    late = invoke("run", "wait", run["id"], "--seconds", "0")
    invoke("run", "cancel", run["id"])
    ended = invoke("run", "wait", run["id"])

    assert isinstance(late.exception, OrdinautError)
    assert "still queued" in late.exception.message
    assert (ended.exit_code, "canceled" in ended.stdout) == (1, True)


def test_lists_go_over_pages_up_to_the_limit(invoke: Invoke) -> None:
    task_id = made(invoke)
    for _ in range(3):
        invoke("task", "run", task_id)

    two = invoke("run", "list", "--task", task_id, "--limit", "2")

    assert len(re.findall("queued", two.stdout)) == 2
    assert "more" in two.stdout


def test_occurrences_tell_past_and_future(invoke: Invoke) -> None:
    shown = invoke("task", "occurrences", made(invoke))

    assert shown.stdout.count("upcoming") == 10


def test_what_the_api_refuses_is_told_with_its_place(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    file = tmp_path / "task.json"
    file.write_text(json.dumps(TASK | {"timezone": "Mars/Base"}))
    monkeypatch.setattr(sys, "argv", ["ordinaut", "task", "create", str(file)])
    monkeypatch.setenv("ORDINAUT_URL", server.url)
    monkeypatch.setenv("ORDINAUT_API_KEY", server.key)

    with pytest.raises(SystemExit) as ended:
        main()

    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "invalid_schedule" in said
    assert "  timezone: " in said


def test_files_and_servers_that_do_not_serve_are_named(invoke: Invoke, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for args, words in (
        (("task", "create", str(tmp_path / "none.json")), "none.json"),
        (("task", "create", str(broken)), "not JSON"),
        (("task", "run", "x", "--param", "n"), "name=value"),
        (("task", "show", "nonsense"), "UUID"),
        (("task", "--url", "http://127.0.0.1:1", "list"), "does not answer"),
        (("task", "--api-key", "ord_wrong", "list"), "unauthenticated"),
    ):
        done = invoke(*args)
        assert isinstance(done.exception, OrdinautError), args
        assert words in str(done.exception) + str(getattr(done.exception, "problems", "")), args


def test_without_a_server_a_command_asks_which_and_help_does_not(tmp_path: Path) -> None:
    lost = CliRunner().invoke(app, ["task", "--data-dir", str(tmp_path), "list"])
    helped = CliRunner().invoke(app, ["task", "list", "--help"])

    assert "ORDINAUT_URL" in str(lost.exception)
    assert helped.exit_code == 0


def test_titles_can_not_move_the_cursor_of_a_terminal(invoke: Invoke) -> None:
    task_id = made(invoke, title="a\x1b[2Jb\nc")

    shown = invoke("task", "pause", task_id).stdout

    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2


def test_a_preview_says_the_schedule_and_its_times() -> None:
    args = ["preview", "rrule", "FREQ=DAILY;BYHOUR=3;BYMINUTE=30;BYSECOND=0"]
    dst = ["--after", "2027-03-27T12:00:00Z", "--count", "1", "--timezone", "Europe/Chisinau"]

    shown = CliRunner().invoke(app, [*args, *dst]).stdout.splitlines()
    finished = CliRunner().invoke(app, ["preview", "once", "2020-01-01T00:00:00Z"])

    assert "03:30" in shown[0]
    assert shown[1] == "2027-03-28 04:30:00+03:00  2027-03-28T01:30:00Z  dst_shifted"
    assert shown[2] == "…"
    assert "nothing follows" in finished.stdout


def test_a_preview_of_what_can_not_be_is_refused() -> None:
    for args, words in (
        (["preview", "cron", "61 * * * *"], "61"),
        (["preview", "cron", "* * * * *", "--timezone", "Mars/Base"], "Mars/Base"),
        (["preview", "cron", "* * * * *", "--after", "tomorrow"], "--after"),
        (["preview", "weekly", "x"], "weekly"),
    ):
        done = CliRunner().invoke(app, args)
        assert words in str(done.exception) + done.output, args


async def test_an_open_stream_does_not_keep_the_server_from_stopping(
    shared_url: str, shared_db: Database, redis_url: str
) -> None:
    settings = settings_of(shared_url, redis_url)
    _, key = await make_agent(shared_db, settings, "events:read")
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers) as client,
        served(settings, key) as server,
        client.stream("GET", f"{server.url}/events/stream") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        began = time.monotonic()
        assert await server.stop() == 0
        assert time.monotonic() - began < settings.drain_seconds / 2
