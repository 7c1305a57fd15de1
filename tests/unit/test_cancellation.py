"""A cancellation that a library swallows is raised all the same."""

import asyncio

import pytest

from ordinaut import cancellation


async def swallow(entered: asyncio.Event) -> None:
    """Do what asyncio.wait_for does before Python 3.12."""
    entered.set()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return


async def test_a_swallowed_cancellation_is_raised_at_the_end_of_the_block() -> None:
    entered = asyncio.Event()

    async def loop() -> None:
        while True:
            with cancellation.heeded():
                await swallow(entered)

    task = asyncio.create_task(loop())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


async def test_cleaning_up_after_a_cancellation_goes_to_its_end() -> None:
    entered, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            entered.set()
            await asyncio.sleep(60)
        finally:
            with cancellation.heeded():
                await asyncio.sleep(0)
            cleaned.set()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert cleaned.is_set()
