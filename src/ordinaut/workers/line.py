"""A connection to PostgreSQL that one component keeps, opened again when it breaks."""

from __future__ import annotations

import random

import psycopg

from ordinaut.store import database
from ordinaut.store.database import Tx

# The statements of a worker are prepared once and live on while the queue grows from nothing to
# a million rows. These keep the planner from a plan that was right only for the empty table: the
# leaser walks along indexes, the others look ids up in one, and join what they find by hash.
BY_INDEX = "-c jit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off"
BY_ID = f"{BY_INDEX} -c enable_nestloop=off -c enable_mergejoin=off -c enable_bitmapscan=off"

FIRST_PAUSE = 0.05  # seconds
LONGEST_PAUSE = 5.0


class Line:
    """One connection for the statements of one component."""

    def __init__(self, url: str, *, name: str, pooled: bool = False, options: str = "") -> None:
        self._url = url
        self._name = name
        self._pooled = pooled
        self._options = options
        self._connection: Tx | None = None

    async def open(self) -> Tx:
        """Return the connection, a new one when the last is broken."""
        if self._connection is None or self._connection.closed:
            self._connection = await database.connect(
                self._url, pooled=self._pooled, name=self._name, options=self._options
            )
        return self._connection

    @property
    def broken(self) -> bool:
        """Whether the connection was lost, and with it perhaps the answer to a commit."""
        return self._connection is None or self._connection.closed

    async def close(self) -> None:
        """Close the connection; harmless when repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def is_passing(error: psycopg.Error) -> bool:
    """Tell whether the same statement may succeed later: nothing is wrong with its data."""
    if isinstance(error, psycopg.errors.ProgramLimitExceeded):
        return False
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def pause(failures: int) -> float:
    """Return how long to wait before the next attempt, with jitter: workers return apart."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 16))
    return longest * random.uniform(0.5, 1.0)
