"""``ordinaut dev`` from end to end: real servers, real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest

pytestmark = pytest.mark.chaos

PATIENCE = 60  # seconds; the machine may be busy


def until(seen: Callable[[], Any], what: str) -> Any:
    """Wait for something that other processes do."""
    deadline = time.monotonic() + PATIENCE
    while not (found := seen()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.05)
    return found


class Dev:
    """A running ``ordinaut dev``."""

    def __init__(self, place: Path, *options: str) -> None:
        self.place = place
        self.began = time.monotonic()
        self.log = place.with_name(f"{place.name}.out")
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ordinaut", "dev", "--data-dir", str(place), *options],
                env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place / "dev.json").read_text())
        return found

    @property
    def pids(self) -> list[int]:
        by_name = self.state["pids"]
        return [by_name[name] for name in ("postgres", "valkey", "api", "scheduler")] + by_name[
            "workers"
        ]

    def wait_ready(self) -> "Dev":
        until(lambda: self.is_ready() or self.process.poll() is not None, "ready")
        assert self.is_ready(), self.log.read_text()
        return self

    def is_ready(self) -> bool:
        try:
            return bool(self.state["pids"]["dev"] == self.process.pid)
        except FileNotFoundError:
            return False

    def get(self, path: str, **query: str) -> Any:
        answer = httpx2.get(
            self.state["url"] + path,
            params=query,
            headers={"Authorization": f"Bearer {self.state['api_key']}"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = httpx2.post(
            self.state["url"] + path,
            json=body,
            headers={"Authorization": f"Bearer {self.state['api_key']}"},
        )
        assert answer.is_success, answer.text
        return answer.json()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    started = Dev(tmp_path_factory.mktemp("dev") / "data", "--port", "0", "--workers", "2")
    try:
        yield started.wait_ready()
    finally:
        started.process.kill()
        started.process.wait()


def sample_run(dev: Dev) -> dict[str, Any] | None:
    """A succeeded run of the sample that asks for the API's health."""
    tasks = {task["labels"].get("sample"): task for task in dev.get("/tasks")["items"]}
    runs = dev.get("/runs", task_id=tasks["heartbeat"]["id"], status="succeeded")["items"]
    return runs[0] if runs else None


def test_dev_json_names_living_processes_and_is_private(dev):
    assert dev.state["pids"]["dev"] == dev.process.pid
    assert len(dev.state["pids"]["workers"]) == 2
    assert all(psutil.pid_exists(pid) for pid in dev.pids)
    assert (dev.place / "dev.json").stat().st_mode & 0o777 == 0o600


def test_what_dev_prints_is_enough_to_call_the_api(dev):
    printed = dev.log.read_text()
    assert dev.state["url"] in printed
    assert dev.state["api_key"] in printed


def test_a_sample_really_runs(dev):
    run = until(lambda: sample_run(dev), "a succeeded run of the sample")
    steps = {step["id"]: step for step in dev.get(f"/runs/{run['id']}")["steps"]}
    assert set(steps) == {"ask", "judge", "note"}
    assert steps["ask"]["output"]["status"] == 200
    assert run["output"]["status"] == 200


def test_a_task_made_over_http_runs_at_its_instants_with_the_outputs_of_its_steps(dev):
    task = dev.post(
        "/tasks",
        {
            "title": "every two seconds",
            "schedule_kind": "rrule",
            "schedule_expr": "FREQ=SECONDLY;INTERVAL=2",
            "catchup": "all",  # a busy machine may look like an outage
            "payload": {
                "params": {"numbers": [1, 2, 3]},
                "pipeline": [
                    {
                        "id": "sum",
                        "uses": "core.transform",
                        "with": {"value": "${params.numbers}", "expression": "sum(@)"},
                    },
                    {"id": "say", "uses": "core.log", "with": {"message": "it is ${steps.sum}"}},
                ],
                "output": {"sum": "${steps.sum}"},
            },
        },
    )

    def three() -> Any:
        runs = dev.get("/runs", task_id=task["id"], status="succeeded")["items"]
        return runs if len(runs) >= 3 else None

    runs = until(three, "three runs")
    dev.post(f"/tasks/{task['id']}/cancel")

    due = sorted(datetime.fromisoformat(run["scheduled_for"]) for run in runs)
    first = datetime.fromisoformat(task["next_run_at"])
    assert due == [first + n * timedelta(seconds=2) for n in range(len(due))]
    for run in runs:
        started, asked = run["started_at"], run["scheduled_for"]
        assert datetime.fromisoformat(started) >= datetime.fromisoformat(asked)
        assert run["output"] == {"sum": 6}
        steps = {step["id"]: step["output"] for step in dev.get(f"/runs/{run['id']}")["steps"]}
        assert (steps["sum"], steps["say"]["message"]) == (6, "it is 6")


def test_a_second_dev_hears_who_holds_the_directory(dev):
    second = Dev(dev.place, "--port", "0")
    assert second.process.wait(PATIENCE) == 1
    assert f"another ordinaut dev (pid {dev.process.pid}) runs on" in second.log.read_text()


def test_a_taken_port_is_named_before_anything_starts(dev, tmp_path):
    port = dev.state["url"].rsplit(":", 1)[1]
    second = Dev(tmp_path / "data", "--port", port)
    assert second.process.wait(PATIENCE) == 1
    assert f"can not listen on 127.0.0.1 port {port}" in second.log.read_text()
    assert not (tmp_path / "data" / "postgres").exists()


def test_the_doctor_examines_a_running_dev(dev):
    done = subprocess.run(
        [sys.executable, "-m", "ordinaut", "doctor", "--data-dir", str(dev.place)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["api", "scheduler", "postgres", "valkey"])
def test_a_killed_process_comes_back_and_dev_json_follows(dev, name):
    before = dev.state["pids"][name]
    os.kill(before, signal.SIGKILL)
    after = until(
        lambda: (pid := dev.state["pids"][name]) not in (None, before) and pid,
        f"another {name}",
    )
    assert psutil.pid_exists(after)
    until(lambda: answers(dev), "the API")


def answers(dev: Dev) -> bool:
    try:
        return httpx2.get(f"{dev.state['url']}/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


def test_sigterm_stops_everything_and_a_second_start_keeps_everything(dev):
    state, pids = dev.state, dev.pids
    tasks = {task["id"] for task in dev.get("/tasks")["items"]}
    assert dev.stop() == 0
    assert gone(pids)
    assert not (dev.place / "dev.json").exists()

    again = Dev(dev.place, "--port", "0").wait_ready()
    try:
        assert again.state["api_key"] == state["api_key"]
        assert {task["id"] for task in again.get("/tasks")["items"]} == tasks
        pids = again.pids
    finally:
        code = again.stop(signal.SIGINT)
    assert code == 0
    assert gone(pids)


def test_a_killed_dev_leaves_nothing_that_prevents_the_next_start(tmp_path):
    first = Dev(tmp_path / "data", "--port", "0", "--no-samples").wait_ready()
    port = first.state["url"].rsplit(":", 1)[1]
    pids = first.pids
    assert first.get("/tasks")["items"] == []
    first.process.kill()
    first.process.wait()
    second = Dev(tmp_path / "data", "--port", port, "--no-samples").wait_ready()
    try:
        assert gone(pids)
    finally:
        assert second.stop() == 0


def test_servers_of_ones_own_replace_the_embedded_ones(tmp_path, empty_database_url, redis_url):
    options = ("--database-url", empty_database_url, "--redis-url", redis_url)
    dev = Dev(tmp_path / "data", "--port", "0", "--no-samples", *options).wait_ready()
    try:
        assert dev.state["database_url"] == empty_database_url
        assert dev.state["pids"]["postgres"] is None
        with psycopg.connect(empty_database_url) as connection:
            assert connection.execute("SELECT count(*) FROM agent").fetchone() == (1,)
    finally:
        assert dev.stop() == 0
    assert not (tmp_path / "data" / "postgres").exists()
