"""Calls of the HTTP API for the command line, and how their answers look."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import typer

from ordinaut.cli.remote import Target
from ordinaut.errors import (
    Conflict,
    FieldProblem,
    InvalidInput,
    NotFound,
    OrdinautError,
    Unavailable,
)

TIMEOUT = 30.0  # seconds
LOOK_EVERY = 0.5  # seconds between looks at a run that is waited for
ENDED = ("succeeded", "failed", "canceled", "dead")
MAX_CELL = 60


def call(target: Target, method: str, path: str, **request: Any) -> Any:
    """Return the answer of the API as JSON, ``None`` for an empty one.

    Raises the error that the API's problem stands for.
    """
    headers = {"Authorization": f"Bearer {target.api_key}"}
    try:
        answer = httpx2.request(
            method, target.url + path, headers=headers, timeout=TIMEOUT, **request
        )
    except httpx2.TransportError as error:
        raise Unavailable(f"{target.url} does not answer: {error}") from None
    if answer.is_error:
        raise _error(answer)
    return answer.json() if answer.content else None


def pages(target: Target, path: str, *, limit: int, **query: Any) -> dict[str, Any]:
    """Return up to ``limit`` items of a list, page after page."""
    items: list[Any] = []
    cursor = None
    while True:
        params = {name: value for name, value in query.items() if value}
        params |= {"limit": min(limit - len(items), 1000)} | ({"cursor": cursor} if cursor else {})
        page = call(target, "GET", path, params=params)
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None or len(items) >= limit:
            return {"items": items, "next_cursor": cursor}


def wait(target: Target, run_id: str, *, seconds: float) -> Any:
    """Return a run once it has ended; raises :class:`Conflict` when that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        run = call(target, "GET", f"/runs/{run_id}")
        if run["status"] in ENDED:
            return run
        if time.monotonic() >= deadline:
            raise Conflict(f"run {run_id} is still {run['status']} after {seconds:g} s")
        time.sleep(LOOK_EVERY)


def read_json(source: str) -> Any:
    """Read JSON from a file, or from standard input for ``-``."""
    try:
        text = typer.get_text_stream("stdin").read() if source == "-" else Path(source).read_text()
        return json.loads(text)
    except OSError as error:
        raise NotFound(f"{source}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{source} is not JSON: {error}") from None


def parameters(pairs: list[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; a value that is JSON keeps its type."""
    read: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise InvalidInput(f"write a parameter as name=value, not {pair!r}")
        try:
            read[name] = json.loads(text)
        except json.JSONDecodeError:
            read[name] = text
    return read


def show(answer: Any, *, as_json: bool, columns: tuple[str, ...]) -> None:
    """Print a page or a single thing, as a table or as JSON."""
    if as_json:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    items = answer["items"] if isinstance(answer, dict) and "items" in answer else [answer]
    table = [columns, *(tuple(_cell(item, name) for name in columns) for item in items)]
    for line in _lines(table):
        typer.echo(line)
    if isinstance(answer, dict) and answer.get("next_cursor"):
        typer.echo("… and more; see --limit")


def _lines(table: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _cell(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    text = "" if value is None else str(value)
    # A title may hold anything; what is not printable could move the cursor.
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"


def _error(answer: httpx2.Response) -> OrdinautError:
    try:
        problem = answer.json()
        fields = tuple(FieldProblem(e["path"], e["message"]) for e in problem.get("errors", ()))
        return InvalidInput(f"{problem['detail']} ({problem['code']})", problems=fields)
    except (ValueError, KeyError, TypeError):
        return Unavailable(f"{answer.url} answered {answer.status_code}")
