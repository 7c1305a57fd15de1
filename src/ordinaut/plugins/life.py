"""The time in which one extension is started, lived in one task of its home loop.

What an extension opens may have to be closed by the task that opened it (anyio's cancel scopes
insist), so starting and stopping are the two ends of one coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from ordinaut.plugins.base import Extension
from ordinaut.plugins.kit import Kit


class Life:
    """Enter and leave it in the home loop of the extension.

    With ``live`` false, as in a worker that hosts only tools, background tasks and
    subscriptions stay asleep.
    """

    def __init__(self, extension: Extension, kit: Kit, *, live: bool) -> None:
        self._extension = extension
        self._kit = kit
        self._live = live
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> Mapping[str, Any]:
        """Start the extension; return the state its application's lifespan yields."""
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        self._stopping = asyncio.Event()
        self._task = loop.create_task(self._run())
        try:
            return await self._ready
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def leave(self) -> None:
        """Stop the extension; raises what its shutdown raises."""
        if self._task is not None:
            self._stopping.set()
            await self._task

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                try:
                    state = await self._open(stack)
                    self._ready.set_result(state)
                    await self._stopping.wait()
                except GeneratorExit:  # its loop is gone, so nothing can be awaited any more
                    stack.pop_all()
                    raise
        except BaseException as error:
            if self._ready.done():
                raise
            # The one who waits in enter() gets it; a task that raises as well would be noise.
            self._ready.set_exception(error)

    async def _open(self, stack: AsyncExitStack) -> Mapping[str, Any]:
        app = self._kit.app
        state: Mapping[str, Any] = {}
        if app is not None:
            lifespan: Any = app.router.lifespan_context(app)
            state = await stack.enter_async_context(lifespan) or {}
        stack.push_async_callback(self._extension.on_shutdown, self._kit.app_facade)
        await self._extension.on_startup(self._kit.app_facade)
        if self._live:
            for worker in self._kit.workers:
                await stack.enter_async_context(worker)
        return state
