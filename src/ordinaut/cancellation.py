"""Cancellation that is heeded on every Python.

Before Python 3.12, ``asyncio.wait_for`` swallows a cancellation that arrives in the moment in
which its inner task ends (python/cpython#86296). redis-py sends commands through it and
psycopg_pool waits for connections with it, so a loop over either could run for ever after it
was cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heeded() -> Iterator[None]:
    """Raise at the end of the block the cancellation that was swallowed inside it."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
