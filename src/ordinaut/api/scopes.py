"""The scopes there are, and who may hand out which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ordinaut.engine.nearest import hint
from ordinaut.errors import Forbidden
from ordinaut.model import Agent

OWNED: Final = (
    "tasks:read",
    "tasks:write",
    "tasks:run",
    "runs:read",
    "runs:write",
    "events:read",
    "secrets:read",
    "secrets:write",
    "webhooks:read",
    "webhooks:write",
)
KNOWN: Final = (
    *OWNED,
    *(f"{scope}:all" for scope in OWNED),
    "events:publish",
    "agents:admin",
    "system:read",
    "admin",
)

# Sets of scopes by name, for who does not want to choose one by one.
ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "viewer": ("tasks:read", "runs:read", "events:read"),
    "author": (*OWNED, "events:publish"),
    "operator": (
        *(f"{scope}:all" for scope in OWNED if not scope.startswith("secrets:")),
        "system:read",
    ),
    "administrator": ("admin",),
}

APPROVE: Final = "approve:"

_EXTENSION = re.compile(
    r"ext:[a-z][a-z0-9_-]{0,62}:(routes|tools|events_pub|events_sub|background_tasks|static)\Z"
)
_APPROVAL = re.compile(rf"{APPROVE}[a-z][a-z0-9_.-]{{0,62}}\Z")


def check_scope(scope: str) -> str:
    """Return ``scope``; raises :class:`ValueError` when there is none of this name."""
    if scope in KNOWN or _EXTENSION.match(scope) or _APPROVAL.match(scope):
        return scope
    raise ValueError(f"unknown scope {scope!r}{hint(scope, KNOWN)}")


def of_roles(roles: Iterable[str]) -> set[str]:
    """Return the scopes that roles stand for."""
    return {scope for role in roles for scope in ROLES[role]}


def of_approval(word: str) -> str:
    """Return the scope that an approval asks for: ``pay`` stands for ``approve:pay``."""
    return word if ":" in word else APPROVE + word


def check_grant(giver: Agent, scopes: Iterable[str]) -> None:
    """Raise :class:`Forbidden` unless ``giver`` holds all that it hands out or changes."""
    beyond = sorted(scope for scope in scopes if not giver.may(scope))
    if beyond:
        raise Forbidden(f"you do not hold {', '.join(beyond)} yourself")
