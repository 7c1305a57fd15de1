"""Where the code of an extension runs.

Built-in extensions run in the process's own event loop. A stranger's extension gets a thread
with an event loop of its own: what blocks there, a slow import, ``time.sleep`` in a route,
blocks that extension and nobody else. Coroutines cross from loop to loop here and nowhere
else. ::

    core loop ── run(fn) ──► home loop of the extension
              ◄── back(fn) ──

Blocking is harmless to others, computing without end is not: the interpreter's lock lets one
thread compute at a time. So the lock is asked for more often than by default, and the host asks
each home whether it is a :meth:`ThreadHome.runaway` and ends it then.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ordinaut.errors import ExtensionError
from ordinaut.plugins.effort import Efforts, Pulse

T = TypeVar("T")

STOP_SECONDS = 2.0
RUNAWAY_SECONDS = 2.0  # of computing in the loop without an answer
EFFORT_SECONDS = 10.0  # of computing in one synchronous route, which has a thread of its own
SWITCH_SECONDS = 0.0005  # a thread that computes is asked for the interpreter's lock after this


class Interrupted(SystemExit):
    """Raised inside an extension that does not end by itself."""


class Home(Protocol):
    """An event loop that an extension lives in."""

    is_core: bool

    async def run(self, fn: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Call ``fn`` at home and wait for it; cancelling the wait cancels the call."""

    async def back(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call ``fn`` in the core's loop, from home."""

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let an application that lives there answer one request."""

    def runaway(self) -> bool:
        """Tell whether it computes without end; to be asked about once a second."""

    def silence(self) -> float:
        """Return for how many seconds its loop has not answered, as far as it was asked."""

    async def close(self) -> None:
        """End what still runs there, by force if need be; harmless when repeated."""


class CoreHome:
    """The event loop of the process itself."""

    is_core = True

    async def run(self, fn: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        return await _contained(fn, *args, **kwargs)

    async def back(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await fn(*args)

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    def runaway(self) -> bool:
        return False

    def silence(self) -> float:
        return 0.0

    async def close(self) -> None:
        return None


class ThreadHome:
    """An event loop in a daemon thread: the process can end while it is stuck."""

    is_core = False

    def __init__(self, name: str, *, patience: float = RUNAWAY_SECONDS) -> None:
        self._name = name
        self._core: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._pulse = Pulse(patience)
        self._efforts = Efforts(patience * EFFORT_SECONDS / RUNAWAY_SECONDS)

    async def run(self, fn: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        self._core = asyncio.get_running_loop()
        return await _across(self._started(), fn, *args, **kwargs)

    async def back(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        assert self._core is not None, "run() brought us here"
        return await _across(self._core, fn, *args)

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_there() -> Message:
            return await self.back(receive)

        async def send_there(message: Message) -> None:
            await self.back(send, message)

        await self.run(app, scope, receive_there, send_there)

    def runaway(self) -> bool:
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return False
        lost = self._pulse.is_lost(self._loop, self._thread)
        return self._efforts.are_too_much(self._helpers()) or lost

    def silence(self) -> float:
        return self._pulse.silence()

    async def close(self) -> None:
        if self._loop is None or self._thread is None:
            return
        if not self._closing:
            self._closing = True
            with suppress(RuntimeError):  # it closed itself this instant
                self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        stuck = [one for one in (self._thread, *self._helpers()) if one.is_alive()]
        for thread in stuck:
            # It did not even stop, so the thread is in the extension's code. What computes is
            # interrupted at once, what sleeps when it wakes; nobody waits for that.
            _interrupt(thread)
        if self._thread in stuck:
            await asyncio.to_thread(self._thread.join, STOP_SECONDS / 4)

    def _helpers(self) -> list[threading.Thread]:
        """The threads in which its synchronous routes run: anyio's, which know their loop."""
        return [one for one in threading.enumerate() if getattr(one, "loop", None) is self._loop]

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._closing or (self._thread is not None and not self._thread.is_alive()):
            raise ExtensionError(f"the thread of extension {self._name!r} has ended")
        if self._loop is None:
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_live, args=(self._loop,), name=f"ext:{self._name}", daemon=True
            )
            self._thread.start()
        return self._loop


async def _across(
    loop: asyncio.AbstractEventLoop, fn: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any
) -> T:
    work = _contained(fn, *args, **kwargs)
    try:
        there = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:
        work.close()
        raise ExtensionError("the event loop it lived in has ended") from None
    return await asyncio.wrap_future(there)


async def _contained(fn: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Keep exit() in an extension from ending the loop it was called in."""
    try:
        return await fn(*args, **kwargs)
    except Interrupted:
        raise ExtensionError("its code was interrupted") from None
    except SystemExit as error:
        raise ExtensionError(f"its code called exit({error.code})") from None


def _interrupt(thread: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted)
    )


def _live(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    with suppress(SystemExit):
        loop.run_forever()
    with suppress(SystemExit):
        _wind_up(loop)
    loop.close()


def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what the extension leaked, and let it end."""
    leaked = asyncio.all_tasks(loop)
    for task in leaked:
        task.cancel()
    if leaked:
        loop.run_until_complete(asyncio.wait(leaked, timeout=STOP_SECONDS / 2))
    loop.run_until_complete(loop.shutdown_asyncgens())
