"""Connections, transactions and named queries: the mechanics below every store module.

SQL stands in ``store/sql/<module>.sql``, one statement under each ``-- name:`` line, and is
bound by the Python function of the same name. What several of them share stands once under a
``-- part:`` line, and an ``-- include:`` line puts it in its place. A caller opens the transaction
(``async with db.transaction() as tx``) and store functions take ``tx`` first, so what belongs
together commits together.
"""

from __future__ import annotations

import re
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from importlib import resources
from typing import Any, LiteralString, TypeAlias

import orjson
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool

from ordinaut import cancellation

Tx: TypeAlias = AsyncConnection[TupleRow]

# For sessions that look at little, and often: to start parallel workers or a compiler for one
# statement costs them more than the statement, and a plan that was made when a table was empty,
# and is kept, must not read all of it when it is full.
SMALL = "-c jit=off -c max_parallel_workers_per_gather=0 -c enable_seqscan=off"
PREPARE_AFTER = 3  # executions; the hot statements are few and repeat for ever
CONNECT_TIMEOUT = 10  # seconds

_HEAD = re.compile(r"^-- (name|part): (\w+)\s*$", re.MULTILINE)
_INCLUDE = re.compile(r"^ *-- include: (\w+)\s*$", re.MULTILINE)
_MARGIN = re.compile(r"^ *(?:--.*\n)?", re.MULTILINE)


class Queries:
    """The named statements of one file in ``store/sql``."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getitem__(self, name: str) -> LiteralString:
        return self._statements[name]

    @cached_property
    def _statements(self) -> dict[str, LiteralString]:
        text = resources.files("ordinaut.store").joinpath(f"sql/{self._module}.sql").read_text()
        _, *pieces = _HEAD.split(text)
        found = list(zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True))
        parts = {name: body.strip("\n") for kind, name, body in found if kind == "part"}
        # Package data, not input: as trustworthy as a literal. Without what is for the eye, because
        # the driver reads a statement of more than 4,096 characters anew each time.
        return {
            name: _MARGIN.sub("", _INCLUDE.sub(lambda use: parts[use[1]], body)).strip()
            for kind, name, body in found
            if kind == "name"
        }


async def _configure(connection: AsyncConnection[Any]) -> None:
    set_json_dumps(orjson.dumps, connection)
    set_json_loads(orjson.loads, connection)


async def connect(
    url: str, *, pooled: bool = False, name: str = "ordinaut", options: str = ""
) -> Tx:
    """Open one connection in autocommit, for a component that keeps it.

    ``options`` are settings of the session (``-c jit=off``). They are hints for the planner: a
    pooler that stands in between would not pass them on, so there they are left out.
    """
    connection: Tx = await AsyncConnection.connect(
        url,
        autocommit=True,
        application_name=name,
        connect_timeout=CONNECT_TIMEOUT,
        prepare_threshold=None if pooled else PREPARE_AFTER,
        options="" if pooled else options,
    )
    await _configure(connection)
    return connection


async def _check(connection: AsyncConnection[Any]) -> None:
    # An idle server says nothing, except that it is gone. Asking it would cost a round trip for
    # each loan; so it is asked only when there is something to read.
    readable = select.poll()
    readable.register(connection.fileno(), select.POLLIN)
    if readable.poll(0):
        await AsyncConnectionPool.check_connection(connection)


def _with_options(url: str, options: str) -> str:
    """Return ``options`` behind those that an address has already."""
    return f"{conninfo_to_dict(url).get('options') or ''} {options}".strip()


class Database:
    """A pool of connections to PostgreSQL.

    ``pooled`` says that a pooler in transaction mode (PgBouncer) stands in between: then no
    statement is prepared on the server. ``patience`` is how many seconds a caller waits for a
    connection, while all are lent out or the server is away.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int = 10,
        pooled: bool = False,
        name: str = "ordinaut",
        patience: float = 30.0,
        options: str = "",
    ) -> None:
        """``options`` are settings of the sessions, as for :func:`connect`."""
        self.url = url
        self.pooled = pooled
        given = {} if pooled or not options else {"options": _with_options(url, options)}
        self._pool: AsyncConnectionPool[Tx] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=size,
            open=False,
            timeout=patience,
            configure=_configure,
            check=_check,
            kwargs={
                "autocommit": True,
                "application_name": name,
                "connect_timeout": CONNECT_TIMEOUT,
                "prepare_threshold": None if pooled else PREPARE_AFTER,
                **given,
            },
        )

    async def __aenter__(self) -> Database:
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Tx]:
        """Lend a connection in autocommit: for a single statement that is its own transaction."""
        with cancellation.heeded():
            async with self._pool.connection() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Lend a connection inside a transaction; an exception rolls it back."""
        with cancellation.heeded():
            async with self._pool.connection() as connection, connection.transaction():
                yield connection
