"""``ordinaut doctor``: what is wrong here, and what to do about it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from ordinaut.cli.servers import load
from ordinaut.errors import NotFound


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(doctor)


def doctor(
    database_url: Annotated[str | None, typer.Option(envvar="DATABASE_URL")] = None,
    redis_url: Annotated[str | None, typer.Option(envvar="REDIS_URL")] = None,
    direct_url: Annotated[
        str | None,
        typer.Option("--database-direct-url", envvar="DATABASE_DIRECT_URL"),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Where to look for a running `ordinaut dev` otherwise.")
    ] = Path(".ordinaut"),
) -> None:
    """Check this machine, the database, Redis and the processes; exit code 1 if one fails."""
    if not (database_url and redis_url):
        with contextlib.suppress(NotFound):
            running = load("ordinaut.devserver.state").read(data_dir)
            database_url = database_url or running.database_url
            redis_url = redis_url or running.redis_url
    failed = False
    examination = load("ordinaut.cli.examination")
    for finding in examination.examine(database_url, redis_url, direct_url=direct_url or None):
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.subject:10}  {finding.text}")
        if not finding.ok:
            failed = True
            typer.echo(f"      {'':10}  -> {finding.advice}")
    raise typer.Exit(int(failed))
