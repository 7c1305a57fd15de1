"""The manifest of an extension, parsed before any of its code is imported.

``extension.json`` says who the extension is, where its module lies and what it may be
granted. A manifest that parses can be trusted from here on: its id is a plain word, its module
stays inside its folder, its grants are known capabilities.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ordinaut.engine.schema import Schema
from ordinaut.errors import ExtensionError, InvalidInput
from ordinaut.plugins.base import API_VERSION, Capability

MANIFEST = "extension.json"
MAX_MANIFEST_BYTES = 262_144
ID = re.compile(r"[a-z][a-z0-9_]{0,40}")
RESERVED_CONFIG = ("enabled", "grants")  # ORDINAUT_EXT_<ID>__ENABLED and __GRANTS
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _id(value: str) -> str:
    if not ID.fullmatch(value):
        raise ValueError(
            f"{value!r} is not an id: a small letter, then at most 40 small letters, digits or _"
        )
    return value


def check_id(value: str) -> None:
    """Raise :class:`ExtensionError` unless ``value`` can be an id."""
    try:
        _id(value)
    except ValueError as error:
        raise ExtensionError(str(error)) from None


def _module(value: str) -> str:
    path = PurePosixPath(value if value.endswith(".py") else value.replace(".", "/") + ".py")
    if path.is_absolute() or ".." in path.parts or "\\" in value or "\0" in value:
        raise ValueError(f"{value!r} leaves the extension's folder; name a file inside it")
    if not all(part.isidentifier() for part in path.with_suffix("").parts):
        raise ValueError(f"{value!r} is not a module; 'extension.py' would be one")
    return str(path)


def _capability(value: object) -> object:
    if isinstance(value, str) and value.upper() in Capability.__members__:
        return Capability[value.upper()]
    known = ", ".join(Capability.__members__)
    raise ValueError(f"{value!r} is not a capability; there are {known}")


def _contract(value: int) -> int:
    if value != API_VERSION:
        raise ValueError(
            f"the extension is written for version {value} of the contract, "
            f"this Ordinaut offers version {API_VERSION}"
        )
    return value


def _public_route(value: str) -> str:
    method, _, path = value.rpartition(" ")
    if method and method not in _METHODS:
        raise ValueError(f"{method!r} is not an HTTP method")
    if not path.startswith("/") or ".." in path or "*" in path[:-1]:
        raise ValueError(
            f"{value!r} is not a route: '/meta', 'POST /login' or '/static/*' would be one"
        )
    return value


Grant = Annotated[Capability, BeforeValidator(_capability)]


class Manifest(BaseModel):
    """What ``extension.json`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, AfterValidator(_id)]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    module: Annotated[str, AfterValidator(_module)] = "extension.py"
    description: Annotated[str, Field(max_length=4000)] = ""
    enabled: bool = True
    eager: bool = False
    grants: frozenset[Grant] = frozenset()
    config_schema: Annotated[dict[str, Any], BeforeValidator(lambda v: {} if v is None else v)] = {}
    operator_config: bool = False
    api_version: Annotated[int, AfterValidator(_contract)] = API_VERSION
    public_routes: tuple[Annotated[str, AfterValidator(_public_route)], ...] = ()
    tool_prefixes: tuple[Annotated[str, AfterValidator(_id)], ...] = ()

    @field_validator("tool_prefixes")
    @classmethod
    def _only_built_in(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and not (info.context or {}).get("built_in"):
            raise ValueError("only built-in packs have prefixes; yours is 'ext.<id>.'")
        return value

    @field_validator("config_schema")
    @classmethod
    def _usable(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            Schema(value)
        except InvalidInput as error:
            raise ValueError(error.message) from None
        properties = value.get("properties", {})
        if taken := sorted(key for key in properties if key.lower() in RESERVED_CONFIG):
            raise ValueError(f"{taken[0]!r} is reserved for the operator; choose another key")
        return value


def parse_manifest(text: str, *, built_in: bool = False) -> Manifest:
    """Parse ``extension.json``; raises :class:`ExtensionError` that names every wrong key."""
    try:
        return Manifest.model_validate(json.loads(text), context={"built_in": built_in})
    except (json.JSONDecodeError, RecursionError) as error:
        raise ExtensionError(f"{MANIFEST} is not JSON: {error}") from None
    except ValidationError as error:
        raise ExtensionError(f"{MANIFEST}: " + "; ".join(_complaints(error))) from None


def read_manifest(folder: Path, *, built_in: bool = False) -> Manifest:
    """Read and parse the manifest in ``folder``."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ExtensionError(f"{MANIFEST} can not be read: {error.strerror}") from None
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ExtensionError(f"{MANIFEST} is over {MAX_MANIFEST_BYTES} bytes")
    try:
        return parse_manifest(raw.decode(), built_in=built_in)
    except UnicodeDecodeError:
        raise ExtensionError(f"{MANIFEST} is not UTF-8") from None


def _complaints(error: ValidationError) -> list[str]:
    known = ", ".join(Manifest.model_fields)
    return [
        f"unknown key {_place(e['loc'])!r} (known: {known})"
        if e["type"] == "extra_forbidden"
        else f"{_place(e['loc']) or 'manifest'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    ]


def _place(loc: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")
