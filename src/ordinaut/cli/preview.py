"""``ordinaut preview``: when would this fire? It needs no server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from ordinaut.cli.servers import load
from ordinaut.clock import SystemClock
from ordinaut.errors import InvalidInput

DEFAULT_ZONE = (
    "Europe/Chisinau"  # that of Settings.timezone, which can not be read without a server
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(preview)


def preview(
    kind: Annotated[Literal["rrule", "cron", "interval", "once"], typer.Argument()],
    expression: Annotated[str, typer.Argument(help="Such as FREQ=DAILY;BYHOUR=9 or '0 9 * * *'.")],
    timezone: Annotated[
        str, typer.Option(envvar="ORDINAUT_TIMEZONE", help="An IANA zone.")
    ] = DEFAULT_ZONE,
    after: Annotated[str | None, typer.Option(help="An RFC 3339 time; now when left out.")] = None,
    starts_at: Annotated[str | None, typer.Option(help="An RFC 3339 time.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 10,
    language: Annotated[Literal["en", "ro", "ru"], typer.Option(help="Of the explanation.")] = "en",
) -> None:
    """Say in words when a schedule fires, and show its next occurrences."""
    since = _instant("--after", after) or SystemClock().now()
    start = _instant("--starts-at", starts_at)
    schedule = load("ordinaut.model").Schedule(kind, expression, timezone, start or since, start)
    engine: Any = load("ordinaut.engine.schedule")
    found, finished = engine.preview(schedule, after=since, count=count)
    typer.echo(load("ordinaut.engine.explain").explain(schedule, lang=language))
    for one in found:
        line = f"{one.local.isoformat(sep=' ')}  {one.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        typer.echo(f"{line}  {one.note}".rstrip())
    typer.echo("nothing follows" if finished else "…")


def _instant(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        read = None
    if read is None or read.tzinfo is None:
        raise InvalidInput(f"{option} is an RFC 3339 time with offset, not {text!r}")
    return read.astimezone(UTC)
