"""Where the code of an extension runs.

Built-in extensions run in the process's own event loop. A stranger's extension gets a thread
with an event loop of its own: what blocks there, a slow import, ``time.sleep`` in a route, an
endless loop, blocks that extension and nobody else. Coroutines cross from loop to loop here and
nowhere else.

::

    core loop ── run(coroutine) ──► home loop of the extension
              ◄── call_back(...) ──
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ordinaut.errors import ExtensionError

T = TypeVar("T")

STOP_SECONDS = 2.0


class Home(Protocol):
    """An event loop that an extension lives in."""

    is_core: bool

    async def run(self, work: Awaitable[T]) -> T:
        """Run ``work`` at home and wait for it; cancelling the wait cancels the work."""

    async def back(self, work: Awaitable[T]) -> T:
        """Run ``work`` in the core's loop, called from home."""

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let an application that lives there answer one request."""

    async def close(self) -> None:
        """End what still runs there; harmless when repeated."""


class CoreHome:
    """The event loop of the process itself."""

    is_core = True

    async def run(self, work: Awaitable[T]) -> T:
        return await _contained(work)

    async def back(self, work: Awaitable[T]) -> T:
        return await work

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    async def close(self) -> None:
        return None


class ThreadHome:
    """An event loop in a daemon thread: the process can end while it is stuck."""

    is_core = False

    def __init__(self, name: str) -> None:
        self._name = name
        self._core: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Awaitable[T]) -> T:
        self._core = asyncio.get_running_loop()
        return await _across(work, self._started())

    async def back(self, work: Awaitable[T]) -> T:
        assert self._core is not None, "run() brought us here"
        return await _across(work, self._core)

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_there() -> Message:
            return await self.back(receive())

        async def send_there(message: Message) -> None:
            await self.back(send(message))

        await self.run(app(scope, receive_there, send_there))

    async def close(self) -> None:
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            await asyncio.to_thread(thread.join, STOP_SECONDS)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_live, args=(self._loop,), name=f"ext:{self._name}", daemon=True
            )
            self._thread.start()
        return self._loop


async def _across(work: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_contained(work), loop))


async def _contained(work: Awaitable[T]) -> T:
    """Keep exit() in an extension from ending the loop it was called in."""
    try:
        return await work
    except SystemExit as error:
        raise ExtensionError(f"its code called exit({error.code})") from None


def _live(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        leaked = asyncio.all_tasks(loop)
        for task in leaked:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*leaked, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
