"""Secrets by reference in the configuration of extensions: ``${secrets.NAME}`` within a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ordinaut.errors import Undecipherable
from ordinaut.model import Json
from ordinaut.store import secrets
from ordinaut.store.database import Tx
from ordinaut.store.extensions import Configured
from ordinaut.store.secrets import Keyring

_REFERENCE = re.compile(r"\$\{secrets\.([A-Za-z_][A-Za-z0-9_]{0,63})\}")


@dataclass(frozen=True, slots=True)
class Choice:
    """What administrators chose for an extension while it ran; ``None``: nothing.

    ``config`` holds the values of secrets; ``problem`` says which of them can not be had.
    """

    enabled: bool | None = None
    config: Mapping[str, Json] = field(default_factory=dict, repr=False)
    problem: str = ""


async def opened(tx: Tx, stored: Configured, keys: Keyring) -> Choice:
    """Return a configuration with the values of its secrets."""
    names = frozenset(name for text in _texts(stored.config) for name in _REFERENCE.findall(text))
    found = await secrets.sealed(tx, names, owner=stored.agent_id) if names else {}
    if missing := sorted(names - found.keys()):
        return Choice(problem=f"configuration: no secret {missing[0]} of who configured it")
    try:
        values = {
            name: keys.open(sealed, owner=stored.agent_id, name=name)
            for name, sealed in found.items()
        }
    except Undecipherable as error:
        return Choice(problem=f"configuration: {error.message}")
    return Choice(config={key: _filled(value, values) for key, value in stored.config.items()})


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _filled(value: Json, values: Mapping[str, str]) -> Json:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: values[found[1]], value)
    if isinstance(value, dict):
        return {key: _filled(one, values) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, values) for one in value]
    return value
