"""Named databases: one statement a call, values as parameters, results as JSON."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import orjson
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ordinaut.plugins.base import EffectUnknown, Json, ToolError

DEFAULT_ROWS = 1000
MAX_ROWS = 10_000
DEFAULT_TIMEOUT = 30.0  # seconds
CONNECT_TIMEOUT = 10.0
EXACT = 2**53  # integers above it lose digits in JSON readers that know only doubles

_COMMON: dict[str, Any] = {
    "database": {"type": "string", "minLength": 1},
    "params": {
        "type": ["object", "array"],
        "description": "Values for %(name)s or %s; objects and lists are passed as jsonb.",
    },
    "timeout_seconds": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 3600,
        "default": DEFAULT_TIMEOUT,
    },
}
QUERY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["database", "query"],
    "additionalProperties": False,
    "properties": {
        **_COMMON,
        "query": {"type": "string", "minLength": 1},
        "max_rows": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_ROWS,
            "default": DEFAULT_ROWS,
        },
    },
}
ROWS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["columns", "rows", "row_count", "truncated"],
    "properties": {
        "columns": {"type": "array", "items": {"type": "string"}},
        "rows": {"type": "array", "items": {"type": "object"}},
        "row_count": {"type": "integer"},
        "truncated": {"type": "boolean", "description": "Whether rows were left over."},
    },
}
CHANGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["row_count"],
    "properties": {
        "row_count": {"type": "integer"},
        "rows": {"type": "array", "description": "What RETURNING yields."},
    },
}
EXECUTE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["database", "statement"],
    "additionalProperties": False,
    "properties": {**_COMMON, "statement": {"type": "string", "minLength": 1}},
}


class Databases:
    """The databases of the operator, connected to when they are first used."""

    def __init__(self, addresses: Mapping[str, str], *, pool_size: int) -> None:
        self._addresses = dict(addresses)
        self._pool_size = pool_size
        self._pools: dict[str, AsyncConnectionPool] = {}

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()

    async def query(
        self,
        database: str,
        query: str,
        params: Any = None,
        max_rows: int = DEFAULT_ROWS,
        timeout_seconds: float = DEFAULT_TIMEOUT,
    ) -> Json:
        """Return ``{columns, rows, row_count, truncated}``."""
        rows: list[Json] = []
        async with (
            self._transaction(database, timeout_seconds, read_only=True) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            # Streamed, so that a result of millions of rows is not read to be cut.
            async for row in cursor.stream(query.encode(), _bound(params)):
                if len(rows) == max_rows:
                    return _result(cursor, rows, truncated=True)
                rows.append(row)
            return _result(cursor, rows, truncated=False)

    async def execute(
        self,
        database: str,
        statement: str,
        params: Any = None,
        timeout_seconds: float = DEFAULT_TIMEOUT,
    ) -> Json:
        """Return ``{row_count}`` and, after RETURNING, ``rows``."""
        async with (
            self._transaction(database, timeout_seconds, read_only=False) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            # Without values psycopg would use the simple protocol, which takes several
            # statements at once; a pipeline speaks the extended one, as stream() does.
            async with connection.pipeline():
                await cursor.execute(statement.encode(), _bound(params))
            answer: dict[str, Json] = {"row_count": max(cursor.rowcount, 0)}
            if cursor.description is not None:
                answer["rows"] = _plain(await cursor.fetchmany(MAX_ROWS))
            return answer

    @asynccontextmanager
    async def _transaction(
        self, database: str, seconds: float, *, read_only: bool
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        pool = await self._pool(database)
        sent = False
        try:
            async with pool.connection(timeout=CONNECT_TIMEOUT) as connection:
                await connection.set_read_only(read_only)
                async with connection.transaction():
                    milliseconds = str(max(1, int(seconds * 1000)))
                    await connection.execute(
                        "SELECT set_config('statement_timeout', %s, true)", (milliseconds,)
                    )
                    sent = not read_only
                    yield connection
        except PoolTimeout:
            text = f"no connection to database {database!r} in {CONNECT_TIMEOUT:g} s"
            raise ToolError(text, retryable=True) from None
        except psycopg.Error as error:
            if sent and _is_lost(error):
                text = f"database {database!r}: {error}; it may or may not have happened"
                raise EffectUnknown(text) from None
            raise _tool_error(database, error) from None

    async def _pool(self, database: str) -> AsyncConnectionPool:
        if database not in self._addresses:
            known = ", ".join(sorted(self._addresses)) or "none"
            raise ToolError(
                f"no database {database!r}; the operator named: {known} "
                "(ORDINAUT_EXT_SQL__DATABASES)",
                retryable=False,
            )
        if database not in self._pools:
            pool = AsyncConnectionPool(
                self._addresses[database],
                min_size=0,
                max_size=self._pool_size,
                open=False,
                # DISCARD ALL forgets what was prepared.
                kwargs={"autocommit": True, "prepare_threshold": None},
                reset=_forget,
            )
            self._pools[database] = pool
            await pool.open()
        return self._pools[database]


async def _forget(connection: psycopg.AsyncConnection[Any]) -> None:
    """Leave nothing of one pipeline (SET ROLE, SET search_path) to the next."""
    await connection.execute("DISCARD ALL")


def _bound(params: Any) -> Any:
    """Wrap what PostgreSQL has no own type for."""
    if isinstance(params, dict):
        return {key: _value(value) for key, value in params.items()}
    return [_value(value) for value in params or ()]


def _value(value: Json) -> Any:
    return Jsonb(value) if isinstance(value, dict | list) else value


def _result(
    cursor: psycopg.AsyncCursor[Any], rows: Sequence[Json], *, truncated: bool
) -> dict[str, Json]:
    columns = [column.name for column in cursor.description or ()]
    return {
        "columns": columns,
        "rows": _plain(rows),
        "row_count": len(rows),
        "truncated": truncated,
    }


def _plain(rows: Sequence[Json]) -> Json:
    return orjson.loads(orjson.dumps(rows, default=_json, option=orjson.OPT_NON_STR_KEYS))


def _json(value: object) -> Json:
    match value:
        case Decimal() if value.is_finite() and value == value.to_integral_value():
            return int(value) if abs(value) <= EXACT else str(value)
        case Decimal():
            # A number where it is the same number, else text with all its digits.
            return float(value) if Decimal(repr(float(value))) == value else str(value)
        case bytes() | memoryview():
            return base64.b64encode(bytes(value)).decode()
    return str(value)


def _tool_error(database: str, error: psycopg.Error) -> ToolError:
    diagnosed = error.diag.message_primary or str(error).splitlines()[0]
    return ToolError(
        f"database {database!r}: {diagnosed}",
        retryable=_is_passing(error),
        details={"sqlstate": error.sqlstate or "", "detail": error.diag.message_detail or ""},
    )


def _is_lost(error: psycopg.Error) -> bool:
    """Tell whether the connection broke without a word of the server."""
    broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return broken and error.sqlstate is None


def _is_passing(error: psycopg.Error) -> bool:
    """Tell whether the same statement may succeed later."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    # Connection, rollback (serialization, deadlock), resources, operator, locks, timeouts.
    return error.sqlstate[:2] in ("08", "40", "53", "57") or error.sqlstate == "55P03"
