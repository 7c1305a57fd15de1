"""Settings: one frozen object, the only reader of the environment.

``DATABASE_URL``, ``DATABASE_DIRECT_URL`` and ``REDIS_URL`` have the names every platform gives
them; all else begins with ``ORDINAUT_``. Each setting is described in
``docs/reference/settings.md``.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from ordinaut.errors import FieldProblem, InvalidInput

MIN_SECRET_BYTES = 32  # HS256 wants a key as long as its hash (RFC 7518 section 3.2)
KEY_BYTES = 32  # of AES-256
PREFIX = "ORDINAUT_"
EXT_PREFIX = "ORDINAUT_EXT_"
UNPREFIXED = ("DATABASE_URL", "DATABASE_DIRECT_URL", "REDIS_URL")
FROM_FILE = "_FILE"  # at the end of the name of a variable: the value stands in that file

_RATE = re.compile(r"[1-9][0-9]{0,8}/(second|minute|hour|day)\Z")
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"must be at least {MIN_SECRET_BYTES} bytes long")
    return secret


def _each_long_enough(secrets: SecretStr | None) -> SecretStr | None:
    for word in [] if secrets is None else secrets.get_secret_value().split():
        _long_enough(SecretStr(word))
    return secrets


def parse_keys(text: str) -> dict[str, bytes]:
    """Read keys written ``id:base64``, separated by commas or white space; the first is current."""
    keys: dict[str, bytes] = {}
    for number, word in enumerate(text.replace(",", " ").split(), 1):
        key_id, _, encoded = word.partition(":")
        if not _KEY_ID.match(key_id) or key_id in keys:
            raise ValueError(f"key {number}: an id is a-z, 0-9, _ and -, and stands once")
        try:
            keys[key_id] = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise ValueError(f"key {number} ({key_id}) is not Base64") from None
        if len(keys[key_id]) != KEY_BYTES:
            raise ValueError(f"key {number} ({key_id}) has not {KEY_BYTES} bytes")
    if not keys:
        raise ValueError("holds no key")
    return keys


def _usable_keys(keys: SecretStr | None) -> SecretStr | None:
    if keys is not None:
        parse_keys(keys.get_secret_value())
    return keys


def _json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("is a JSON list of issuers") from None


def _rate(text: str) -> str:
    if text and not _RATE.match(text):
        raise ValueError("is a number and a time, such as 100/minute, or nothing for no limit")
    return text


def _networks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        ip_network(name)  # raises ValueError that names what is wrong
    return names


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name!r} is not an IANA time zone")
    return name


def _paths(value: object) -> object:
    return tuple(p for p in value.split(os.pathsep) if p) if isinstance(value, str) else value


def _words(value: object) -> object:
    return tuple(w for w in value.replace(",", " ").split()) if isinstance(value, str) else value


class Issuer(BaseModel):
    """Another issuer of access tokens, and what is accepted of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: Annotated[str, Field(min_length=1, pattern=r"^[^|\s]+$")]
    audience: Annotated[str, Field(min_length=1)]
    jwks_uri: Annotated[str, Field(pattern=r"^(https://|http://(127\.0\.0\.1|localhost)[:/])")]
    algorithms: Annotated[
        tuple[Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"], ...],
        Field(min_length=1),
    ] = ("RS256",)


class Settings(BaseModel):
    """Everything a process must know before it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: str
    database_direct_url: str | None = None
    redis_url: str
    secret: Annotated[SecretStr, AfterValidator(_long_enough)]
    former_secrets: Annotated[SecretStr | None, AfterValidator(_each_long_enough)] = None
    jwt_keys: SecretStr | None = None
    issuers: Annotated[tuple[Issuer, ...], BeforeValidator(_json)] = ()
    secrets_keys: Annotated[SecretStr | None, AfterValidator(_usable_keys)] = None

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 8080
    timezone: Annotated[str, AfterValidator(_known_zone)] = "Europe/Chisinau"
    log_level: str = "info"
    log_json: bool = True
    database_pool_size: Annotated[int, Field(ge=2, le=200)] = 10

    worker_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 100
    worker_health_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    scheduler_health_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0
    tick_limit: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 90
    event_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 30

    access_token_seconds: Annotated[int, Field(ge=30, le=86_400)] = 900
    refresh_token_seconds: Annotated[int, Field(ge=60, le=31_536_000)] = 1_209_600
    session_seconds: Annotated[int, Field(ge=60, le=315_360_000)] = 7_776_000
    browser_session_seconds: Annotated[int, Field(ge=300, le=31_536_000)] = 43_200
    browser_idle_seconds: Annotated[int, Field(ge=300, le=31_536_000)] = 3_600
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_048_576
    body_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    rate_limit: Annotated[str, AfterValidator(_rate)] = "100000/minute"
    sign_in_limit: Annotated[str, AfterValidator(_rate)] = "30/minute"
    trusted_proxies: Annotated[
        tuple[str, ...], BeforeValidator(_words), AfterValidator(_networks)
    ] = ()
    quota_tasks: Annotated[int, Field(ge=0)] = 0
    quota_runs_per_hour: Annotated[int, Field(ge=0)] = 0
    quota_payload_bytes: Annotated[int, Field(ge=0)] = 0

    ext_paths: Annotated[tuple[Path, ...], BeforeValidator(_paths)] = ()
    ext_disabled: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    ext_reload: bool = False
    ext_options: Mapping[str, Mapping[str, str]] = {}
    http_allow_private: bool = False
    http_allow_hosts: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    webhook_allow_networks: Annotated[
        tuple[str, ...], BeforeValidator(_words), AfterValidator(_networks)
    ] = ()
    webhook_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 7

    @property
    def direct_url(self) -> str:
        """The address that no pooler stands in front of: for LISTEN and migrations."""
        return self.database_direct_url or self.database_url

    @property
    def pooled(self) -> bool:
        """Whether ``database_url`` leads through a pooler, which rules out session state."""
        return self.database_direct_url not in (None, self.database_url)


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the environment; ``overrides`` (from the command line) win.

    Raises :class:`InvalidInput` that names every variable that is missing or wrong.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        if (given := _given(source, variable(name))) is not None:
            values[name] = given
    values["ext_options"] = _ext_options(source)
    values.update({k: v for k, v in overrides.items() if v is not None})
    try:
        return Settings(**values)
    except ValidationError as error:
        raise InvalidInput("settings are not complete", problems=_problems(error)) from None


def _given(source: Mapping[str, str], name: str) -> str | None:
    """Return the value of a variable, or of the file that ``<name>_FILE`` names."""
    if place := source.get(name + FROM_FILE):
        try:
            return Path(place).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput.at(name + FROM_FILE, f"can not be read: {error}") from None
    value = source.get(name)
    return None if value == "" and name in UNPREFIXED else value


def _ext_options(source: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Collect ``ORDINAUT_EXT_<ID>__<KEY>``: the options of extensions, by id and key."""
    options: dict[str, dict[str, str]] = {}
    for name, value in source.items():
        extension, separator, key = name.removeprefix(EXT_PREFIX).partition("__")
        if name.startswith(EXT_PREFIX) and separator and extension and key:
            options.setdefault(extension.lower(), {})[key.lower()] = value
    return options


def environment() -> dict[str, str]:
    """Return a copy of the environment, to be handed on to child processes."""
    return dict(os.environ)


def variable(setting: str) -> str:
    """Return the environment variable of a setting."""
    return name if (name := setting.upper()) in UNPREFIXED else PREFIX + name


def _problems(error: ValidationError) -> tuple[FieldProblem, ...]:
    # The input is left out of the message: it may be the secret.
    return tuple(
        FieldProblem(variable(str(e["loc"][0])), e["msg"], e["type"]) for e in error.errors()
    )
