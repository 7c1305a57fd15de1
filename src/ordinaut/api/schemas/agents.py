"""Agents, keys and tokens as they are sent and answered."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from ordinaut.api.schemas.base import Answer, Body, Instant, Name
from ordinaut.api.scopes import check_scope

Scope: TypeAlias = Annotated[str, StringConstraints(max_length=200), AfterValidator(check_scope)]
Scopes: TypeAlias = Annotated[list[Scope], Field(max_length=100)]
Role: TypeAlias = Literal["viewer", "author", "operator", "administrator"]
Subject: TypeAlias = Annotated[
    str, StringConstraints(min_length=3, max_length=500, pattern=r"^[^|\s]+\|\S[^\n\r]*$")
]
Credential: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class AgentIn(Body):
    """A new agent; its scopes are those that are named and those of the roles."""

    name: Name
    scopes: Scopes = Field(default_factory=list)
    roles: Annotated[list[Role], Field(max_length=10)] = Field(default_factory=list)
    subject: Subject | None = None


class AgentPatch(Body):
    """What changes of an agent; what is left out stays. Roles stand for their scopes."""

    name: Name = ""
    scopes: Scopes = Field(default_factory=list)
    roles: Annotated[list[Role], Field(max_length=10)] = Field(default_factory=list)
    status: Literal["active", "disabled"] = "active"
    subject: Subject | None = None


class AgentOut(Answer):
    """An agent as it is stored."""

    id: UUID
    name: str
    scopes: list[str]
    status: Literal["active", "disabled"]
    subject: str | None
    created_at: Instant
    updated_at: Instant


class KeyIn(Body):
    """A new key of an agent."""

    name: Annotated[str, StringConstraints(max_length=200)] = ""
    expires_at: Instant | None = None


class KeyOut(Answer):
    """A key without its secret."""

    id: UUID
    agent_id: UUID
    name: str
    prefix: str
    created_at: Instant
    expires_at: Instant | None
    last_used_at: Instant | None
    revoked_at: Instant | None


class NewKey(KeyOut):
    """A key with its secret, which is shown this once."""

    api_key: str


class NewAgent(AgentOut):
    """A new agent with its first key, which is shown this once."""

    api_key: str


class KeyExchange(Body):
    """An API key that is to be exchanged for tokens."""

    api_key: Credential


class RefreshExchange(Body):
    """A refresh token that is to be exchanged for new tokens."""

    refresh_token: Credential


class Revocation(Body):
    """A refresh or access token that shall end."""

    token: Credential


class TokensOut(Answer):
    """Tokens, and in how many seconds the access token expires."""

    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int


class Me(Answer):
    """Who the credential belongs to and what it may do."""

    id: UUID
    name: str
    scopes: list[str]


class SessionOut(Me):
    """Who is signed in with a browser, until when at most, and the token of its requests."""

    csrf_token: str
    expires_at: Instant
