"""Which peers ``./ordinaut bench queue`` takes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def ask(peers: str) -> subprocess.CompletedProcess[str]:
    """Let the command read ``peers`` where no program is on PATH, and measure nothing."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "queue", "--peers", peers, "--help"],
        cwd=ROOT,
        env={**os.environ, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_node_graphile_is_left_out_in_one_line():
    asked = ask("graphile")
    assert asked.stderr == "graphile is left out: node and npm are not both on PATH\n"
    assert asked.returncode == 0


def test_an_unknown_peer_is_refused_with_those_that_are_known():
    asked = ask("graphle")
    assert asked.returncode == 2
    assert "graphle: known are pgqueuer, procrastinate, celery, graphile" in asked.stderr
