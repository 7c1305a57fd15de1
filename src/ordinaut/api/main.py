"""The HTTP API: one application, made for given settings, served in this process."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import metadata
from typing import Final

import uvicorn
from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ordinaut.api import docs, errors, signin
from ordinaut.api.auth import Authenticator
from ordinaut.api.checks import NextOccurrences, PipelineCheck
from ordinaut.api.dependencies import authenticate
from ordinaut.api.limits import Limits
from ordinaut.api.middleware import BodyLimit, RequestContext, SecurityHeaders
from ordinaut.api.protocol import BoundedProtocol
from ordinaut.api.routes import (
    agents,
    auth,
    calendars,
    events,
    extensions,
    health,
    runs,
    schedules,
    secrets,
    subscribers,
    system,
    task_actions,
    tasks,
    templates,
    webhooks,
)
from ordinaut.api.routing import keep_apart
from ordinaut.api.services import Services
from ordinaut.bus import Bus
from ordinaut.clock import Clock, SystemClock
from ordinaut.config import Settings
from ordinaut.errors import Forbidden
from ordinaut.garbage import spare_what_lives
from ordinaut.plugins.host import ExtensionHost
from ordinaut.store.database import Database
from ordinaut.store.secrets import keyring

ROUTERS: Final = (
    tasks,
    task_actions,
    runs,
    schedules,
    templates,
    events,
    calendars,
    secrets,
    subscribers,
    webhooks,
    agents,
    auth,
    system,
    extensions,
    health,
)
BACKLOG: Final = 2048
PATIENCE: Final = 5.0  # seconds for a database connection; then 503 is the better answer
KEEP_ALIVE_SECONDS: Final = 75  # longer than the 60 s after which common proxies hang up


def create_app(settings: Settings, *, clock: Clock | None = None) -> FastAPI:
    """Return the application; what it works with is made when it starts."""
    chosen = clock or SystemClock()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _services(settings, chosen) as app.state.services:
            yield

    app = FastAPI(
        title="Ordinaut",
        version=metadata.version("ordinaut"),
        description="Runs the right work at the right time, and can say why.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        telemetry={"operation_spans": False},
    )
    errors.install(app)
    for module in ROUTERS:
        # Not include_router, which looks its routes up in two steps with every request.
        app.router.routes.extend(module.routes.routes)
    keep_apart(app.routes)
    docs.install(app)
    signin.install(app)
    app.mount("/ext", _extensions)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, seconds=settings.body_seconds)
    app.add_middleware(RequestContext, clock=chosen)
    app.add_middleware(SecurityHeaders)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    return app


@asynccontextmanager
async def _services(settings: Settings, clock: Clock) -> AsyncIterator[Services]:
    db = Database(
        settings.database_url,
        size=settings.database_pool_size,
        pooled=settings.pooled,
        name="ordinaut api",
        patience=PATIENCE,
    )
    host = ExtensionHost(settings, db=db, authorize=_authorize)
    async with db, Bus(settings.redis_url) as bus, host:
        limits = Limits(settings, bus)
        yield Services(
            settings=settings,
            clock=clock,
            db=db,
            bus=bus,
            auth=Authenticator(settings, db, clock, limits=limits),
            host=host,
            check=PipelineCheck(host.tools),
            following=NextOccurrences(),
            keys=keyring(settings),
            limits=limits,
        )
        await limits.close()


async def _extensions(scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request to the extension that its path names."""
    made: Services = scope["app"].state.services
    await made.host.gateway(scope, receive, send)


async def _authorize(scope: Scope, needed: str) -> None:
    """Let in who holds the scope that an extension needs."""
    agent = await authenticate(Request(scope))
    if not agent.may(needed):
        raise Forbidden(f"this needs the scope {needed}")


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; answers that are under way get ``drain_seconds``."""
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="none",  # the caller runs one already
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )
    await _Server(config).serve()


class _Server(uvicorn.Server):
    """A server that a signal ends like any other: uvicorn's would kill itself with it at last."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        spare_what_lives()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
