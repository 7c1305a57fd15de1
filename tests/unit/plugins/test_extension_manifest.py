"""What a manifest may say, and how a wrong one is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ordinaut.errors import ExtensionError
from ordinaut.plugins.base import Capability
from ordinaut.plugins.schema import parse_manifest

CASES = json.loads(
    (Path(__file__).parents[2] / "data" / "extensions" / "manifests.json").read_text()
)
MINIMAL = {"id": "demo", "name": "Demo", "version": "1"}


def parse(**given: Any) -> Any:
    return parse_manifest(json.dumps(MINIMAL | given))


def test_a_minimal_manifest_grants_nothing() -> None:
    manifest = parse()
    assert manifest.grants == frozenset()
    assert manifest.module == "extension.py"
    assert (manifest.enabled, manifest.eager) == (True, False)


def test_grants_may_be_written_in_either_case() -> None:
    assert parse(grants=["ROUTES", "tools"]).grants == {Capability.ROUTES, Capability.TOOLS}


@pytest.mark.parametrize("module", ["extension", "extension.py", "pack/extension.py", "a.b"])
def test_a_module_may_be_written_as_file_or_dotted(module: str) -> None:
    assert parse(module=module).module.endswith(".py")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["because"])
def test_a_wrong_manifest_is_refused_with_a_reason(case: dict[str, Any]) -> None:
    with pytest.raises(ExtensionError) as refused:
        parse(**case["manifest"])
    assert case["says"] in refused.value.message


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"demo"', "[" * 100_000])
def test_what_is_not_a_json_object_is_refused(text: str) -> None:
    with pytest.raises(ExtensionError, match=r"extension\.json"):
        parse_manifest(text)


def test_only_a_built_in_pack_may_claim_tool_prefixes() -> None:
    with pytest.raises(ExtensionError, match="only built-in packs"):
        parse(tool_prefixes=["http"])
    text = json.dumps(MINIMAL | {"tool_prefixes": ["http"]})
    assert parse_manifest(text, built_in=True).tool_prefixes == ("http",)
