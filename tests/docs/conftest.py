"""The system that the examples of the documentation run against: a real ``ordinaut dev``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 90  # seconds; the machine may be busy


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What ``dev.json`` says of a running ``ordinaut dev``, and ``home``, where it was started."""
    home = tmp_path_factory.mktemp("docs")
    state = home / ".ordinaut" / "dev.json"
    with (home / "out").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ordinaut", "dev", "--port", "0"],
            cwd=home,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not state.exists():
            assert process.poll() is None, (home / "out").read_text()
            assert time.monotonic() < deadline, (home / "out").read_text()
            time.sleep(0.1)
        yield {**json.loads(state.read_text()), "home": home}
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="session")
def docs() -> Path:
    """The folder of the documentation."""
    return Path(__file__).parent.parent.parent / "docs"
