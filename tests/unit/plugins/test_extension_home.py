"""The thread in which a stranger's extension lives."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from ordinaut.errors import ExtensionError
from ordinaut.plugins.home import ThreadHome

PATIENCE = 0.3


@pytest.fixture
async def home() -> AsyncIterator[ThreadHome]:
    one = ThreadHome("test", patience=PATIENCE)
    yield one
    await one.close()
    await one.close()


async def where() -> str:
    return threading.current_thread().name


async def test_work_runs_in_its_own_thread_and_finds_the_way_back(home: ThreadHome) -> None:
    async def there_and_back() -> tuple[str, str]:
        return await where(), await home.back(where)

    here = await where()
    assert await home.run(there_and_back) == ("ext:test", here)


async def test_an_error_crosses_and_an_exit_does_not_end_the_thread(home: ThreadHome) -> None:
    async def fails() -> None:
        raise KeyError("why")

    async def exits() -> None:
        raise SystemExit(3)

    with pytest.raises(KeyError, match="why"):
        await home.run(fails)
    with pytest.raises(ExtensionError, match=r"called exit\(3\)"):
        await home.run(exits)
    assert await home.run(where) == "ext:test"


async def test_who_stops_waiting_cancels_the_work(home: ThreadHome) -> None:
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiting = asyncio.create_task(home.run(forever))
    await home.run(where)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await asyncio.to_thread(cancelled.wait, 5)


async def test_a_thread_that_sleeps_is_no_runaway_and_one_that_spins_is(home: ThreadHome) -> None:
    async def sleeps() -> None:
        time.sleep(2.5 * PATIENCE)  # noqa: ASYNC251  # the fault that is tested

    async def spins() -> None:
        while True:
            pass

    working = asyncio.create_task(home.run(sleeps))
    assert await watch(home) is False
    await working
    working = asyncio.create_task(home.run(spins))
    assert await watch(home) is True
    await home.close()
    with pytest.raises(ExtensionError, match="interrupted"):
        await working


async def watch(home: ThreadHome) -> bool:
    """Ask as the host does, for twice as long as it is patient."""
    found = False
    for _ in range(8):
        await asyncio.sleep(PATIENCE / 4)
        found = found or home.runaway()
    return found
