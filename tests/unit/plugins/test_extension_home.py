"""The thread in which a stranger's extension lives."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import anyio.to_thread
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


async def test_a_synchronous_route_that_spins_is_a_runaway_and_many_short_ones_are_not(
    home: ThreadHome,
) -> None:
    def computes(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    async def often() -> None:
        for _ in range(40):
            await anyio.to_thread.run_sync(computes, 0.05)

    working = asyncio.create_task(home.run(often))
    assert await watch(home, looks=26) is False
    await working
    working = asyncio.create_task(home.run(anyio.to_thread.run_sync, computes, 60))
    assert await watch(home, looks=50) is True
    await home.close()
    with pytest.raises((ExtensionError, asyncio.CancelledError)):
        await working
    for thread in home._helpers():
        await asyncio.to_thread(thread.join, 5)
    assert home._helpers() == []


async def test_a_loop_that_is_blocked_is_silent(home: ThreadHome) -> None:
    async def blocks() -> None:
        time.sleep(2 * PATIENCE)  # noqa: ASYNC251  # the fault that is tested

    await home.run(where)
    assert home.silence() == 0.0
    working = asyncio.create_task(home.run(blocks))
    await asyncio.sleep(PATIENCE / 4)
    home.runaway()
    await asyncio.sleep(PATIENCE)
    assert home.silence() >= PATIENCE
    await working
    await home.run(where)
    assert home.silence() == 0.0


async def test_work_for_a_loop_that_has_just_ended_is_refused(
    home: ThreadHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = home._started()
    await home.close()
    monkeypatch.setattr(home, "_started", lambda: loop)  # as seen a moment before it ended
    with pytest.raises(ExtensionError, match="loop it lived in has ended"):
        await home.run(where)


async def watch(home: ThreadHome, *, looks: int = 8) -> bool:
    """Ask as the host does, by default for twice as long as it is patient."""
    found = False
    for _ in range(looks):
        await asyncio.sleep(PATIENCE / 4)
        found = found or home.runaway()
    return found
