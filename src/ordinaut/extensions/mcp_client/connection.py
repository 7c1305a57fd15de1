"""One MCP server: connected to, listed, called, and connected to again after it went away.

The connection is opened and closed by one task, as the scopes of the SDK demand; calls come
from the tasks of the runs. Nothing is sent twice from here: who repeats a call is the pipeline,
with the same idempotency key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    CallToolResult,
)
from mcp.types import Tool as Listed

from ordinaut.extensions.mcp_client.catalogue import Catalogue, log, output_of, text_of
from ordinaut.plugins.base import (
    Effect,
    EffectUnknown,
    Json,
    ToolContext,
    ToolError,
    Tools,
)

IDEMPOTENCY_KEY = "ordinaut/idempotencyKey"  # in _meta of each call
CONNECT_SECONDS = 10.0
FIRST_LISTING_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds before it is connected to again
MAX_PAGES = 100
CALL_SECONDS = 300.0

_REFUSED = (INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Server:
    """What the operator says of a server: an address, or a program to start."""

    name: str
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = CALL_SECONDS
    effects: Mapping[str, Effect] = field(default_factory=dict)

    async def connect(self, stack: AsyncExitStack) -> Client:
        """Open a client that is closed with ``stack``."""
        if self.command:
            program = StdioServerParameters(
                command=self.command, args=list(self.args), env=dict(self.env)
            )
            return await stack.enter_async_context(Client(program))
        # How long an answer may take is decided by the timeout of the step.
        limits = httpx2.Timeout(CONNECT_SECONDS, read=None)
        http = httpx2.AsyncClient(headers=dict(self.headers), timeout=limits)
        await stack.enter_async_context(http)
        client = Client(streamable_http_client(self.url, http_client=http))
        return await stack.enter_async_context(client)


class Connection:
    """The connection to one server, and its tools in the registry."""

    def __init__(self, server: Server, registry: Tools, *, refresh_seconds: float) -> None:
        self._server = server
        self._refresh_seconds = refresh_seconds
        self._catalogue = Catalogue(
            server.name,
            registry,
            self._call,
            effects=server.effects,
            seconds=server.timeout_seconds,
        )
        self._client: Client | None = None
        self._reason = "it was not connected to yet"
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect in the background, from now until :meth:`close`."""
        self._task = asyncio.create_task(self._run(), name=f"mcp:{self._server.name}")

    async def first_listing(self) -> None:
        """Wait until the tools are known, but not for long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), FIRST_LISTING_SECONDS)

    async def close(self) -> None:
        """Leave the server; harmless when repeated."""
        self._closing = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        # Not only until it is cancelled: a connection that fails meanwhile hides that.
        while not self._closing:
            try:
                async with AsyncExitStack() as stack:
                    await self._stay_connected(stack)
                self._reason, pause = "the connection was lost", FIRST_PAUSE
            except Exception as error:  # whatever a foreign server makes the SDK raise
                self._reason = _words(error)
            finally:
                self._forget()
            log.warning("mcp.unavailable", server=self._server.name, reason=self._reason)
            if not self._closing:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _stay_connected(self, stack: AsyncExitStack) -> None:
        """Return when the connection is lost."""
        self._lost.clear()
        async with asyncio.timeout(CONNECT_SECONDS):
            client = await self._server.connect(stack)
            self._catalogue.update(await _list(client))
        self._client = client
        self._connected.set()
        log.info("mcp.connected", server=self._server.name, protocol=client.protocol_version)
        while True:
            try:
                await asyncio.wait_for(self._lost.wait(), self._refresh_seconds)
                return
            except TimeoutError:
                async with asyncio.timeout(CONNECT_SECONDS):
                    self._catalogue.update(await _list(client))

    async def _call(
        self, name: str, effect: Effect, arguments: dict[str, Json], context: ToolContext
    ) -> Json:
        client = await self._connected_client()

        async def report(
            progress: float, total: float | None = None, message: str | None = None
        ) -> None:
            if total:
                context.progress(min(1.0, max(0.0, progress / total)), message or "")

        meta: Any = {IDEMPOTENCY_KEY: context.idempotency_key}  # mypy knows no extra_items
        try:
            result = await client.call_tool(
                name,
                arguments,
                progress_callback=report,
                meta=meta,
            )
        except MCPError as error:
            raise self._failure(name, effect, error) from None
        except Exception as error:  # the SDK raises what foreign answers do to its types
            raise self._unknown(effect, f'"{name}": {_words(error)}') from None
        return self._answer(name, effect, result)

    async def _connected_client(self) -> Client:
        await self.first_listing()
        if self._client is None:
            text = f'MCP server "{self._server.name}" is not available: {self._reason}'
            raise ToolError(text, retryable=True)
        return self._client

    def _forget(self) -> None:
        """Let the next call wait for a new connection."""
        self._client = None
        self._connected.clear()
        self._lost.set()

    def _failure(self, name: str, effect: Effect, error: MCPError) -> ToolError | EffectUnknown:
        if error.code == CONNECTION_CLOSED:
            self._forget()
            return self._unknown(effect, f'the connection was lost in a call of "{name}"')
        text = f'MCP server "{self._server.name}": "{name}": {error.message}'
        again = error.code not in _REFUSED and effect != "at_most_once"
        return ToolError(text, retryable=again, details={"mcp_code": error.code})

    def _unknown(self, effect: Effect, what: str) -> ToolError | EffectUnknown:
        """Return the error for a call that may or may not have reached the server."""
        text = f'MCP server "{self._server.name}": {what}'
        if effect == "at_most_once":
            return EffectUnknown(f"{text}; it may or may not have happened")
        return ToolError(text, retryable=True)

    def _answer(self, name: str, effect: Effect, result: CallToolResult) -> Json:
        if not result.is_error:
            return output_of(result.structured_content, result.content)
        text = text_of(result.content) or "it failed and does not say why"
        raise ToolError(
            f'MCP server "{self._server.name}": "{name}": {text}',
            retryable=effect != "at_most_once",
            details={"answer": output_of(result.structured_content, result.content)},
        )


async def _list(client: Client) -> list[Listed]:
    """Return all tools of a server, page by page."""
    tools: list[Listed] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def _words(error: BaseException) -> str:
    """Return what happened, from inside the groups that the SDK wraps it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
