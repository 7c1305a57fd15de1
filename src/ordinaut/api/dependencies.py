"""What a route asks for in its signature: who works, on what, and under which rule."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias
from uuid import UUID

from fastapi import Depends, Header, Request, Security
from fastapi.openapi.models import HTTPBearer as BearerModel
from fastapi.security.base import SecurityBase

from ordinaut.api import browser
from ordinaut.api.services import Services
from ordinaut.errors import Forbidden, Unauthenticated
from ordinaut.model import Agent
from ordinaut.store.audit import Actor
from ordinaut.store.database import Tx

BEARER: Final = "bearer "
AGENT: Final = "ordinaut.agent"  # in the scope of a request
SESSION: Final = "ordinaut.session"
OPENED: Final = "ordinaut.tx"


@dataclass(frozen=True, slots=True)
class Work:
    """One request of an agent that was let in.

    ``owner`` is whose things may be touched, ``None`` for everybody's. ``opened`` is the
    transaction of an Idempotency-Key, which commits the change together with its answer.
    """

    parts: Services
    agent: Agent
    actor: Actor
    owner: UUID | None
    opened: Tx | None = None

    @property
    def now(self) -> datetime:
        """The current instant."""
        return self.parts.clock.now()

    def sees(self, scope: str) -> UUID | None:
        """Return whose things the agent may see by another scope; ``None`` for everybody's."""
        return None if self.agent.may(f"{scope}:all") else self.agent.id

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """Open the transaction of this request."""
        opened = self.opened
        return self.parts.db.transaction() if opened is None else nullcontext(opened)

    def connection(self) -> AbstractAsyncContextManager[Tx]:
        """Lend a connection for reading, or for one statement that is its own transaction."""
        opened = self.opened
        return self.parts.db.connection() if opened is None else nullcontext(opened)


def services(request: Request) -> Services:
    """Return the parts that were made at start."""
    made: Services = request.app.state.services
    return made


async def authenticate(request: Request) -> Agent:
    """Return the agent whose credential the request carries."""
    known: Agent | None = request.scope.get(AGENT)
    if known is None:
        known = await identify(request)
        await services(request).limits.admit(known.id)
        request.scope[AGENT] = known
    return known


async def identify(request: Request) -> Agent:
    """Look at the credential of a request, perhaps once more: it may have ended since."""
    if value := browser.cookie(request):
        return await _of_session(request, value)
    credential = bearer(request.headers.get("authorization", ""))
    return await services(request).auth.identify(credential, address=address(request))


async def _of_session(request: Request, value: str) -> Agent:
    sessions = services(request).auth.sessions
    session = await sessions.find(value, address=address(request))
    if request.method not in browser.SAFE_METHODS:
        browser.check_origin(request)
        sessions.check(session, request.headers.get(browser.CSRF_HEADER, ""))
    request.scope[SESSION] = session
    return session.agent


def address(request: Request) -> str:
    """Return where a request comes from, as far as trusted proxies say."""
    return request.client.host if request.client else ""


def bearer(header: str) -> str:
    """Return the credential in an ``Authorization`` header."""
    if header[: len(BEARER)].lower() != BEARER:
        raise Unauthenticated("send an API key or access token: Authorization: Bearer …")
    return header[len(BEARER) :].strip()


def origin(request: Request, agent: Agent | None = None) -> Actor:
    """Return who acts, for the audit log."""
    where = address(request)
    if agent is None:
        return Actor(None, "anonymous", request.state.request_id, where)
    return Actor(agent.id, agent.name, request.state.request_id, where)


class Requires(SecurityBase):
    """Lets in who holds one of ``scopes``; nobody else, and nobody without a credential."""

    model = BearerModel(
        description="An API key (ord_…) or an access token; or the session cookie of a browser."
    )
    scheme_name = "bearer"

    def __init__(self, *scopes: str) -> None:
        self.scopes = scopes

    async def __call__(self, request: Request) -> Work:
        agent = await authenticate(request)
        held = next((scope for scope in self.scopes if agent.may(scope)), None)
        if held is None and self.scopes:
            raise Forbidden(f"this needs the scope {' or '.join(self.scopes)}")
        owner = None if held and agent.may(f"{held}:all") else agent.id
        opened = request.scope.get(OPENED)
        return Work(services(request), agent, origin(request, agent), owner, opened)


def requires(*scopes: str) -> Any:
    """The rule of a route: one of ``scopes``, or with none of them any valid credential."""
    return Security(Requires(*scopes), scopes=scopes)


async def if_match(
    header: Annotated[str | None, Header(alias="If-Match", max_length=100)] = None,
) -> int | None:
    """Return the version that the caller saw, or ``None`` when any will do."""
    if header is None or header.strip() == "*":
        return None
    version = header.strip().removeprefix("W/").strip('"')
    # What is no version of ours matches none of them.
    return int(version) if version.isascii() and version.isdigit() and len(version) < 10 else -1


async def _services(request: Request) -> Services:
    # Dependencies are coroutines: FastAPI runs others in a thread, which costs 100 µs each.
    return services(request)


Parts: TypeAlias = Annotated[Services, Depends(_services)]
IfMatch: TypeAlias = Annotated[int | None, Depends(if_match)]

TasksRead: TypeAlias = Annotated[Work, requires("tasks:read")]
TasksWrite: TypeAlias = Annotated[Work, requires("tasks:write")]
TasksRun: TypeAlias = Annotated[Work, requires("tasks:run")]
RunsRead: TypeAlias = Annotated[Work, requires("runs:read")]
RunsWrite: TypeAlias = Annotated[Work, requires("runs:write")]
EventsRead: TypeAlias = Annotated[Work, requires("events:read")]
EventsPublish: TypeAlias = Annotated[Work, requires("events:publish")]
SecretsRead: TypeAlias = Annotated[Work, requires("secrets:read")]
SecretsWrite: TypeAlias = Annotated[Work, requires("secrets:write")]
WebhooksRead: TypeAlias = Annotated[Work, requires("webhooks:read")]
WebhooksWrite: TypeAlias = Annotated[Work, requires("webhooks:write")]
AgentsAdmin: TypeAlias = Annotated[Work, requires("agents:admin")]
Administration: TypeAlias = Annotated[Work, requires("admin")]
SystemRead: TypeAlias = Annotated[Work, requires("system:read")]
ToolsRead: TypeAlias = Annotated[Work, requires("tasks:read", "system:read")]
Anyone: TypeAlias = Annotated[Work, requires()]
