"""An MCP server for the tests: ``mcp_server.py`` speaks over stdio, with a port over HTTP.

Each call is written to the file ``MCP_CALLS``, as ``<tool> <idempotency key>``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import mcp.types as t
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

OBJECT: dict[str, Any] = {"type": "object"}
SUM: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SAFE = t.ToolAnnotations(idempotent_hint=True)
TOOLS = [
    t.Tool(
        name="add",
        description="Add two numbers.",
        input_schema=SUM,
        output_schema={"type": "object", "properties": {"sum": {"type": "integer"}}},
        annotations=SAFE,
    ),
    t.Tool(name="say", input_schema=OBJECT, annotations=t.ToolAnnotations(read_only_hint=True)),
    t.Tool(name="files/slow", input_schema=OBJECT, annotations=SAFE),
    t.Tool(name="no", input_schema=OBJECT, annotations=SAFE),
    t.Tool(name="die", input_schema=OBJECT, annotations=SAFE),
    t.Tool(name="pay", input_schema=OBJECT),
    t.Tool(
        name="strange",
        input_schema={"type": "object", "allOf": [{"$ref": "https://example.org/s.json"}]},
    ),
]
LATE = [t.Tool(name="late", input_schema=OBJECT, annotations=SAFE)]  # while a file "late" exists


def text(*lines: str) -> list[Any]:
    return [t.TextContent(type="text", text=line) for line in lines]


async def list_tools(
    context: ServerRequestContext[Any], params: t.PaginatedRequestParams | None
) -> t.ListToolsResult:
    """Two pages, so that a client has to turn over."""
    if params is None or params.cursor is None:
        return t.ListToolsResult(tools=TOOLS[:3], next_cursor="more")
    late = Path(os.environ["MCP_CALLS"]).with_name("late").exists()
    return t.ListToolsResult(tools=TOOLS[3:] + LATE * late)


def note(call: str) -> None:
    with Path(os.environ["MCP_CALLS"]).open("a") as calls:
        calls.write(f"{call}\n")


async def call_tool(
    context: ServerRequestContext[Any], params: t.CallToolRequestParams
) -> t.CallToolResult:
    given = params.arguments or {}
    key = dict(params.meta or {}).get("ordinaut/idempotencyKey", "-")
    note(f"{params.name} {key}")
    match params.name:
        case "add":
            result = {"sum": given["a"] + given["b"]}
            return t.CallToolResult(content=text(str(result)), structured_content=result)
        case "files/slow":
            for step in (1, 2):
                await context.session.report_progress(step, 2, f"step {step}")
            return t.CallToolResult(content=text("done"))
        case "no":
            return t.CallToolResult(content=text("the shelf is empty"), is_error=True)
        case "die" | "pay" if not given.get("survive"):
            os._exit(9)
    return t.CallToolResult(content=text("hello", str(given)))


server = Server("shop", version="1", on_list_tools=list_tools, on_call_tool=call_tool)


async def over_stdio() -> None:
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def over_http(port: int) -> None:
    inner = server.streamable_http_app(streamable_http_path="/mcp", stateless_http=True)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        allowed = (
            scope["type"] != "http"
            or Headers(scope=scope).get("authorization") == "Bearer let-me-in"
        )
        if not allowed:
            await Response(status_code=401)(scope, receive, send)
        else:
            await inner(scope, receive, send)

    uvicorn.run(guarded, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        over_http(int(sys.argv[1]))
    else:
        asyncio.run(over_stdio())
