"""The operator's word: enabled, grants, configuration from environment, settings and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ordinaut.config import load_settings
from ordinaut.errors import ExtensionError
from ordinaut.plugins import options
from ordinaut.plugins.base import Capability
from ordinaut.plugins.schema import Manifest, parse_manifest

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["host"],
    "properties": {
        "host": {"type": "string", "minLength": 1},
        "port": {"type": "integer", "default": 25},
        "ratio": {"type": "number"},
        "tls": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object"},
        "Mixed": {"type": "string"},
        "anything": True,
    },
}


def manifest(**given: Any) -> Manifest:
    text = {"id": "mail", "name": "Mail", "version": "1", "config_schema": SCHEMA, **given}
    return parse_manifest(json.dumps(text))


def configured(settings: dict[str, Any] | None = None, **given: str) -> dict[str, Any]:
    return options.configuration(manifest(), given, settings or {})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("host", "25", "25"),
        ("port", "587", 587),
        ("ratio", "0.5", 0.5),
        ("tls", "true", True),
        ("tls", "off", False),
        ("tls", "1", True),
        ("names", '["a", "b"]', ["a", "b"]),
        ("names", "a, b c", ["a", "b", "c"]),
        ("map", '{"a": {"b": 1}}', {"a": {"b": 1}}),
        ("mixed", "x", "x"),
        ("anything", "{", "{"),
    ],
)
def test_a_value_is_read_as_its_schema_wants(key: str, text: str, value: Any) -> None:
    found = configured(**{"host": "h", key: text})
    assert found["Mixed" if key == "mixed" else key] == value


def test_the_environment_wins_over_settings_and_those_over_defaults() -> None:
    assert configured(host="h")["port"] == 25
    assert configured({"port": 26, "other": 1}, host="h")["port"] == 26
    assert configured({"port": 26}, host="h", port="27")["port"] == 27


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, '"host" is a required property'),
        ({"host": ""}, "host:"),
        ({"host": "h", "port": "many"}, "port:"),
        ({"host": "h", "hots": "x"}, "hots"),
        ({"host": "h", "map": "[1]"}, "map:"),
    ],
)
def test_a_wrong_configuration_names_the_key_and_hides_the_value(
    given: dict[str, str], says: str
) -> None:
    with pytest.raises(ExtensionError) as refused:
        configured(**given)
    assert says in refused.value.message
    assert "many" not in refused.value.message
    assert "ORDINAUT_EXT_MAIL__" in refused.value.message


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    assert configured(host_file=str(secret))["host"] == "s3cret"
    with pytest.raises(ExtensionError, match="ORDINAUT_EXT_MAIL__HOST_FILE"):
        configured(host_file=str(tmp_path / "nowhere"))


def test_the_operator_takes_away_and_never_adds() -> None:
    given = manifest(grants=["ROUTES", "TOOLS"])
    assert options.allowed(given, {}) == {Capability.ROUTES, Capability.TOOLS}
    assert options.allowed(given, {"grants": "tools, static"}) == {Capability.TOOLS}
    assert options.allowed(given, {"grants": ""}) == frozenset()


def test_options_are_collected_from_the_environment() -> None:
    settings = load_settings(
        {
            "DATABASE_URL": "postgresql://none.invalid/none",
            "REDIS_URL": "redis://none.invalid",
            "ORDINAUT_SECRET": "s" * 32,
            "ORDINAUT_EXT_MAIL__HOST": "h",
            "ORDINAUT_EXT_PET_SHOP__A__B": "x",
            "ORDINAUT_EXT_PATHS": "/a:/b",
            "ORDINAUT_EXT_OPTIONS": "not an option of an extension",
        }
    )
    assert settings.ext_options == {"mail": {"host": "h"}, "pet_shop": {"a__b": "x"}}
    assert settings.ext_paths == (Path("/a"), Path("/b"))
