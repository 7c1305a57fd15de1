"""What a route asks for in its signature: the caller, a transaction, a page."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias, TypeVar
from uuid import UUID

from fastapi import Depends, Header, Request, Security
from fastapi.openapi.models import HTTPBearer as BearerModel
from fastapi.security.base import SecurityBase

from ordinaut.api import services as parts
from ordinaut.errors import Forbidden, InvalidInput, Unauthenticated
from ordinaut.model import Agent
from ordinaut.store import database
from ordinaut.store.audit import Actor

T = TypeVar("T")

BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls; ``owner`` is whose things may be touched, ``None`` for everybody's."""

    agent: Agent
    actor: Actor
    owner: UUID | None


def services(request: Request) -> parts.Services:
    """Return the parts that were made at start."""
    made: parts.Services = request.app.state.services
    return made


async def _services(request: Request) -> parts.Services:
    # Dependencies are coroutines: FastAPI runs others in a thread, which costs 100 µs each.
    return services(request)


async def authenticate(request: Request) -> Agent:
    """Return the agent whose credential the request carries."""
    known: Agent | None = getattr(request.state, "agent", None)
    if known is None:
        header = request.headers.get("authorization", "")
        if header[: len(BEARER)].lower() != BEARER:
            raise Unauthenticated("send an API key or access token: Authorization: Bearer …")
        known = await services(request).auth.identify(header[len(BEARER) :].strip())
        request.state.agent = known
    return known


def origin(request: Request, agent: Agent | None = None) -> Actor:
    """Return who acts, for the audit log."""
    address = request.client.host if request.client else ""
    return Actor(
        agent.id if agent else None,
        agent.name if agent else "anonymous",
        request.state.request_id,
        address,
    )


class Requires(SecurityBase):
    """Lets in who holds one of ``scopes``; nobody else, and nobody without a credential."""

    model = BearerModel(description="An API key (ord_…) or an access token.")
    scheme_name = "bearer"

    def __init__(self, *scopes: str) -> None:
        self.scopes = scopes

    async def __call__(self, request: Request) -> Caller:
        agent = await authenticate(request)
        held = next((scope for scope in self.scopes if agent.may(scope)), None)
        if held is None and self.scopes:
            raise Forbidden(f"this needs the scope {' or '.join(self.scopes)}")
        owner = None if held and agent.may(f"{held}:all") else agent.id
        return Caller(agent, origin(request, agent), owner)


def requires(*scopes: str) -> Any:
    """The rule of a route: one of ``scopes``, or with none of them any valid credential."""
    return Security(Requires(*scopes), scopes=scopes)


async def transaction(request: Request) -> AsyncIterator[database.Tx]:
    """Open the transaction of a request; it is committed before the answer leaves."""
    opened: database.Tx | None = getattr(request.state, "tx", None)
    if opened is not None:  # an Idempotency-Key opened it, and commits it with the answer
        yield opened
        return
    async with services(request).db.transaction() as tx:
        yield tx


async def connection(request: Request) -> AsyncIterator[database.Tx]:
    """Lend a connection for reading, or for one statement that is its own transaction."""
    opened: database.Tx | None = getattr(request.state, "tx", None)
    if opened is not None:
        yield opened
        return
    async with services(request).db.connection() as tx:
        yield tx


async def if_match(
    header: Annotated[str | None, Header(alias="If-Match", max_length=100)] = None,
) -> int | None:
    """Return the version that the caller saw, or ``None`` when any will do."""
    if header is None or header.strip() == "*":
        return None
    version = header.strip().removeprefix("W/").strip('"')
    # What is no version of ours matches none of them.
    return int(version) if version.isascii() and version.isdigit() and len(version) < 10 else -1


def encode_cursor(place: UUID | int) -> str:
    """Write the place where a page ended."""
    raw = place.bytes if isinstance(place, UUID) else str(place).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def cursor_id(cursor: str | None) -> UUID | None:
    """Read a place among ids; raises :class:`InvalidInput` for what no page ended with."""
    return None if cursor is None else _decode(cursor, lambda raw: UUID(bytes=raw))


def cursor_seq(cursor: str | None) -> int | None:
    """Read a place in a sequence."""
    return None if cursor is None else _decode(cursor, _sequence_number)


def paged(
    found: Sequence[T], *, limit: int, place: Callable[[T], UUID | int]
) -> tuple[list[T], str | None]:
    """Cut what was read (one more than asked for) into a page and the cursor of the next."""
    page = list(found[:limit])
    return page, encode_cursor(place(page[-1])) if len(found) > limit else None


def _decode(cursor: str, read: Callable[[bytes], T]) -> T:
    try:
        raw = base64.b64decode(
            (cursor + "=" * (-len(cursor) % 4)).encode("ascii"), altchars=b"-_", validate=True
        )
        return read(raw)
    except (ValueError, binascii.Error):
        raise InvalidInput.at(
            "cursor", "take next_cursor of the page before, as it is", code="invalid_cursor"
        ) from None


def _sequence_number(raw: bytes) -> int:
    if not (raw.isdigit() and len(raw) < 19):
        raise ValueError("not a place in a sequence")
    return int(raw)


Tx: TypeAlias = Annotated[database.Tx, Depends(transaction, scope="function")]
Connection: TypeAlias = Annotated[database.Tx, Depends(connection, scope="function")]
Parts: TypeAlias = Annotated[parts.Services, Depends(_services)]
IfMatch: TypeAlias = Annotated[int | None, Depends(if_match)]

TasksRead: TypeAlias = Annotated[Caller, requires("tasks:read")]
TasksWrite: TypeAlias = Annotated[Caller, requires("tasks:write")]
TasksRun: TypeAlias = Annotated[Caller, requires("tasks:run")]
RunsRead: TypeAlias = Annotated[Caller, requires("runs:read")]
RunsWrite: TypeAlias = Annotated[Caller, requires("runs:write")]
EventsRead: TypeAlias = Annotated[Caller, requires("events:read")]
EventsPublish: TypeAlias = Annotated[Caller, requires("events:publish")]
AgentsAdmin: TypeAlias = Annotated[Caller, requires("agents:admin")]
SystemRead: TypeAlias = Annotated[Caller, requires("system:read")]
ToolsRead: TypeAlias = Annotated[Caller, requires("tasks:read", "system:read")]
Anyone: TypeAlias = Annotated[Caller, requires()]
