"""The operator's word about one extension: whether it runs, what it may do, its configuration.

It comes from ``ORDINAUT_EXT_<ID>__<KEY>``. ``ENABLED`` and ``GRANTS`` are the operator's own;
every other key is configuration, wins over what was chosen over the API, and is checked against
the manifest's ``config_schema``. ``<KEY>_FILE`` names a file that holds the value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ordinaut.engine.schema import Schema
from ordinaut.errors import ExtensionError
from ordinaut.model import Json
from ordinaut.plugins.base import Capability
from ordinaut.plugins.schema import RESERVED_CONFIG, Manifest

_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def is_enabled(manifest: Manifest, options: Mapping[str, str]) -> bool:
    """Tell whether the operator, or else the manifest, lets the extension run."""
    given = options.get("enabled")
    return manifest.enabled if given is None else _boolean(manifest, "enabled", given)


def allowed(manifest: Manifest, options: Mapping[str, str]) -> frozenset[Capability]:
    """Return the manifest's grants as far as the operator agrees."""
    given = options.get("grants")
    if given is None:
        return manifest.grants
    words = given.replace(",", " ").upper().split()
    if unknown := [word for word in words if word not in Capability.__members__]:
        known = ", ".join(Capability.__members__)
        where = variable(manifest, "grants")
        raise ExtensionError(f"{where}: {unknown[0]!r} is not a capability; there are {known}")
    return manifest.grants & {Capability[word] for word in words}


def configuration(
    manifest: Manifest,
    options: Mapping[str, str],
    settings: Mapping[str, Json],
    chosen: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """Return the configuration: defaults, ``settings``, what was ``chosen``, the environment."""
    declared = manifest.config_schema.get("properties", {})
    # A property may also be declared as true, which says nothing about it.
    properties = {key: one if isinstance(one, dict) else {} for key, one in declared.items()}
    config: dict[str, Json] = {
        k: one["default"] for k, one in properties.items() if "default" in one
    }
    config.update({key: value for key, value in settings.items() if key in properties})
    config.update(chosen or {})
    by_name = {key.lower(): key for key in properties}
    for name, text in options.items():
        if name in RESERVED_CONFIG:
            continue
        base = name.removesuffix("_file")
        if name not in by_name and base in by_name:
            # A secret by reference: the file that an orchestrator mounts.
            name, text = base, _read(text, variable(manifest, name))
        key = by_name.get(name, name)
        config[key] = _parse(text, properties.get(key, {}).get("type"))
    _check(manifest, config)
    return config


def given_by_environment(manifest: Manifest, options: Mapping[str, str]) -> frozenset[str]:
    """Return the keys of the configuration that the environment sets."""
    keys = manifest.config_schema.get("properties", {})
    return frozenset(
        key for key in keys if key.lower() in options or f"{key.lower()}_file" in options
    )


def variable(manifest: Manifest, key: str) -> str:
    """Return the environment variable that sets ``key``."""
    return f"ORDINAUT_EXT_{manifest.id.upper()}__{key.upper()}"


def _check(manifest: Manifest, config: dict[str, Json]) -> None:
    # Values stay out of the message: configuration holds passwords.
    problems = Schema(manifest.config_schema).problems(config, path="", masked=True)
    if problems:
        text = "; ".join(f"{p.path.removeprefix('.') or 'config'}: {p.message}" for p in problems)
        raise ExtensionError(f"configuration ({variable(manifest, 'KEY')}): {text}")


def _read(path: str, name: str) -> str:
    try:
        return Path(path).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExtensionError(f"{name}: {path} can not be read: {error}") from None


def _parse(text: str, kind: object) -> Json:
    """Read a value as its schema wants it; what does not fit is left for the check to refuse."""
    if kind == "string" or kind is None:
        return text
    if kind == "boolean" and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.replace(",", " ").split() if kind == "array" else text


def _boolean(manifest: Manifest, key: str, text: str) -> bool:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    raise ExtensionError(f"{variable(manifest, key)} is true or false, not {text!r}")
