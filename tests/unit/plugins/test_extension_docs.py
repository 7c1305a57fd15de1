"""The example of the guide is a working extension, and its tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ordinaut.plugins.base import Capability
from ordinaut.plugins.schema import Manifest
from ordinaut.testing import ExtensionKit, extension_kit
from pages import blocks, rows

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "extensions.md"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The files of the example, written as their titles say."""
    for block in blocks(GUIDE):
        if block.title.startswith("greeter/"):
            path = tmp_path / block.title
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)
    return tmp_path / "greeter"


def test_the_example_passes_its_own_test(example: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=example, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


async def test_the_example_does_what_the_guide_says(example: Path) -> None:
    async with extension_kit(example) as kit:
        assert await kit.call("ext.greeter.greet", {"who": "Ana"}) == "Hello, Ana"
        assert (await kit.client.get("/hello/Ana")).json() == "Hello, Ana"


def test_every_key_of_the_manifest_is_documented() -> None:
    shown = [word for cells in rows(GUIDE, under="manifest")[1:] for word in _code(cells[0])]
    assert sorted(shown) == sorted(set(Manifest.model_fields) - {"tool_prefixes"})


def test_every_capability_is_documented() -> None:
    shown = [word for cells in rows(GUIDE, under="capabilities")[1:] for word in _code(cells[0])]
    assert sorted(shown) == sorted(Capability.__members__)


def test_everything_of_the_kit_that_is_documented_exists() -> None:
    text = " ".join(cells[0] for cells in rows(GUIDE, under="testing"))
    shown = set(re.findall(r"kit\.(\w+)", text))
    public = {name for name in vars(ExtensionKit) if not name.startswith("_")}
    assert shown == (public | {"client", "reports"}) - {"routes"}


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
