"""The command line: one module for each group of commands, put together here."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

import typer

from ordinaut.cli import agents, audit, doctor, extensions, preview, runs, secrets, servers, tasks
from ordinaut.errors import InvalidInput, OrdinautError

app = typer.Typer(
    name="ordinaut",
    help="Runs the right work at the right time, and can prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they draw boxes into log files and may show secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)
servers.add_to(app)
doctor.add_to(app)
preview.add_to(app)
tasks.add_to(app)
runs.add_to(app)
extensions.add_to(app)
agents.add_to(app)
secrets.add_to(app)
audit.add_to(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ordinaut {metadata.version('ordinaut')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Runs the right work at the right time, and can prove it."""


def main() -> None:
    """Run the command line; errors raised on purpose become a message and exit code 1."""
    try:
        app()
    except OrdinautError as error:
        typer.echo(f"ordinaut: {error.message}", err=True)
        for problem in error.problems if isinstance(error, InvalidInput) else ():
            typer.echo(f"  {problem.path}: {problem.message}", err=True)
        sys.exit(1)
