"""sql.query and sql.execute against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ordinaut.errors import EffectUnknown, ToolError
from ordinaut.testing import ExtensionKit, extension_kit


@pytest.fixture
async def kit(empty_database_url: str) -> AsyncIterator[ExtensionKit]:
    databases = json.dumps({"shop": empty_database_url, "gone": "postgresql://127.0.0.1:1/none"})
    async with extension_kit("sql", config={"databases": databases}) as one:
        await execute(one, "CREATE TABLE item (id int PRIMARY KEY, name text, info jsonb)")
        yield one


async def query(kit: ExtensionKit, text: str, params: Any = None, **given: Any) -> Any:
    bound = {} if params is None else {"params": params}
    return await kit.call("sql.query", {"database": "shop", "query": text, **bound, **given})


async def execute(kit: ExtensionKit, text: str, params: Any = None, **given: Any) -> Any:
    bound = {} if params is None else {"params": params}
    return await kit.call("sql.execute", {"database": "shop", "statement": text, **bound, **given})


async def test_rows_go_in_by_parameters_and_come_out_as_objects(kit: ExtensionKit) -> None:
    insert = "INSERT INTO item VALUES (%(id)s, %(name)s, %(info)s)"
    values = {"id": 1, "name": "Robert'); DROP TABLE item;--", "info": {"a": [1, "ș"]}}
    assert await execute(kit, insert, values) == {"row_count": 1}
    assert await query(kit, "SELECT * FROM item WHERE id = %s", [1]) == {
        "columns": ["id", "name", "info"],
        "rows": [values],
        "row_count": 1,
        "truncated": False,
    }


async def test_what_a_statement_returns_is_in_the_output(kit: ExtensionKit) -> None:
    answer = await execute(kit, "INSERT INTO item (id) VALUES (7), (8) RETURNING id")
    assert answer == {"row_count": 2, "rows": [{"id": 7}, {"id": 8}]}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1::bigint", 1),
        ("1.50::numeric", 1.5),
        ("12::numeric", 12),
        ("0.1234567890123456789::numeric", "0.1234567890123456789"),
        ("12345678901234567890::numeric", "12345678901234567890"),
        ("'NaN'::numeric", "NaN"),
        ("timestamp '2026-03-29 01:00'", "2026-03-29T01:00:00"),
        ("date '2026-03-29'", "2026-03-29"),
        ("'\\x00ff'::bytea", "AP8="),
        ("null", None),
        ("array[1, 2]", [1, 2]),
        ("'3f0e9c2e-0000-7000-8000-000000000001'::uuid", "3f0e9c2e-0000-7000-8000-000000000001"),
        ("'{\"a\": null}'::jsonb", {"a": None}),
        ("interval '90 min'", "1:30:00"),
    ],
)
async def test_every_type_has_a_json_form(kit: ExtensionKit, expression: str, value: Any) -> None:
    assert (await query(kit, f"SELECT {expression} AS it"))["rows"] == [{"it": value}]


async def test_a_long_result_is_cut_and_says_so(kit: ExtensionKit) -> None:
    answer = await query(kit, "SELECT n FROM generate_series(1, 100000000) AS n", max_rows=3)
    assert [row["n"] for row in answer["rows"]] == [1, 2, 3]
    assert answer["truncated"] is True
    assert (await query(kit, "SELECT 1 AS n", max_rows=1))["truncated"] is False


async def test_a_query_changes_nothing(kit: ExtensionKit) -> None:
    with pytest.raises(ToolError, match="read-only transaction") as refused:
        await query(kit, "INSERT INTO item (id) VALUES (1) RETURNING id")
    assert not refused.value.retryable
    assert await execute(kit, "INSERT INTO item (id) VALUES (1)") == {"row_count": 1}
    with pytest.raises(ToolError):
        await query(kit, "DELETE FROM item RETURNING id")


@pytest.mark.parametrize("params", [None, [], {}])
async def test_a_second_statement_is_refused(kit: ExtensionKit, params: Any) -> None:
    for call in (execute, query):
        with pytest.raises(ToolError, match="multiple commands") as refused:
            await call(kit, "COMMIT; DROP TABLE item", params)
        assert not refused.value.retryable
    assert (await query(kit, "SELECT count(*) AS n FROM item"))["rows"] == [{"n": 0}]


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "BEGIN", "SET ROLE NONE", "VACUUM"])
async def test_a_query_that_ends_the_transaction_opens_no_door(
    kit: ExtensionKit, statement: str
) -> None:
    await asyncio.gather(query(kit, statement), return_exceptions=True)
    with pytest.raises(ToolError, match="read-only transaction"):
        await query(kit, "INSERT INTO item (id) VALUES (1) RETURNING id")


@pytest.mark.parametrize(
    ("text", "params", "message"),
    [
        ("SELEC 1", None, "syntax error"),
        ("SELECT * FROM nothing", None, "does not exist"),
        ("SELECT %s", [], "placeholder"),
        ("SELECT %(a)s", {"b": 1}, "parameter"),
        ("SELECT 1/0", None, "division by zero"),
    ],
)
async def test_a_wrong_statement_is_refused_for_good(
    kit: ExtensionKit, text: str, params: Any, message: str
) -> None:
    with pytest.raises(ToolError, match=message) as refused:
        await query(kit, text, params)
    assert not refused.value.retryable


async def test_a_statement_that_takes_too_long_is_ended(kit: ExtensionKit) -> None:
    with pytest.raises(ToolError, match="statement timeout") as late:
        await query(kit, "SELECT pg_sleep(60)", timeout_seconds=0.05)
    assert late.value.retryable


async def test_a_failed_statement_leaves_no_trace_and_the_connection_usable(
    kit: ExtensionKit,
) -> None:
    await execute(kit, "INSERT INTO item (id) VALUES (1)")
    with pytest.raises(ToolError, match="duplicate key") as refused:
        await execute(kit, "INSERT INTO item (id) VALUES (2), (1)")
    assert refused.value.details["sqlstate"] == "23505"
    assert (await query(kit, "SELECT count(*) AS n FROM item"))["rows"] == [{"n": 1}]


async def test_a_database_that_nobody_named_is_refused(kit: ExtensionKit) -> None:
    with pytest.raises(ToolError, match="no database 'other'; the operator named: gone, shop"):
        await kit.call("sql.query", {"database": "other", "query": "SELECT 1"})


async def test_what_one_call_sets_is_gone_in_the_next(kit: ExtensionKit) -> None:
    await query(kit, "SELECT set_config('application_name', 'left behind', false)")
    assert (await query(kit, "SHOW application_name"))["rows"] == [{"application_name": ""}]


async def test_calls_share_a_few_connections(kit: ExtensionKit) -> None:
    answers = await asyncio.gather(
        *(query(kit, "SELECT pg_backend_pid() AS pid, pg_sleep(0.01)") for _ in range(50))
    )
    assert len({answer["rows"][0]["pid"] for answer in answers}) <= 5


async def test_a_change_whose_answer_was_lost_is_for_a_person(empty_database_url: str) -> None:
    place = conninfo_to_dict(empty_database_url)
    host, port = str(place["host"]), place.get("port", 5432)

    async def forward(reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        while data := await reading.read(65536):
            if b"pg_sleep" in data:
                break  # what the server was told, or not, the client never learns
            writing.write(data)
        writing.close()

    async def between(reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        if host.startswith("/"):
            there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            there = await asyncio.open_connection(host, int(str(port)))
        ways = forward(reading, there[1]), forward(there[0], writing)
        done, _ = await asyncio.wait(
            [asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
        )
        assert done
        writing.close()
        there[1].close()

    server = await asyncio.start_server(between, "127.0.0.1", 0)
    own = {"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1], "sslmode": "disable"}
    databases = json.dumps({"shop": make_conninfo(empty_database_url, **own)})
    async with server, extension_kit("sql", config={"databases": databases}) as kit:
        with pytest.raises(EffectUnknown, match="may or may not have happened"):
            await execute(kit, "SELECT pg_sleep(0)")
        with pytest.raises(ToolError) as passing:
            await query(kit, "SELECT pg_sleep(0)")
    assert passing.value.retryable
