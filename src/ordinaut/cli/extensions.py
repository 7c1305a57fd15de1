"""``ordinaut ext``: write, check, test, list, enable and disable extensions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ordinaut.cli.servers import load

Id = Annotated[str, typer.Argument(help="The id of an extension.")]
Folder = Annotated[
    Path, typer.Argument(exists=True, file_okay=False, help="The folder of an extension.")
]
DatabaseUrl = Annotated[
    str, typer.Option(envvar="DATABASE_URL", help="The database that every process follows.")
]


def add_to(app: typer.Typer) -> None:
    """Register the group of commands."""
    group = typer.Typer(no_args_is_help=True)
    for command in (new, check, test, show, enable, disable):
        group.command("list" if command is show else None)(command)
    app.add_typer(
        group, name="ext", help="Write, check, test, list, enable and disable extensions."
    )


def new(
    id: Annotated[str, typer.Argument(help="A small letter, then small letters, digits or _.")],
    directory: Annotated[Path, typer.Option(help="Where its folder is made.")] = Path(),
    package: Annotated[
        bool, typer.Option("--package", help="Make a package to be installed, not a plain folder.")
    ] = False,
) -> None:
    """Write an extension that works, with a test."""
    module = load("ordinaut.cli.scaffold")
    folder = module.write(id, directory, package=package)
    typer.echo(f"{folder} is ready; try: ordinaut ext test {folder}")


def check(folder: Folder) -> None:
    """Load an extension as the product would, and say what it has or why it is refused."""
    for line in load("ordinaut.cli.inspection").check(folder):
        typer.echo(line)


def test(folder: Folder) -> None:
    """Run the tests in the folder of an extension."""
    raise typer.Exit(load("ordinaut.cli.inspection").run_tests(folder))


def show() -> None:
    """List the extensions that are found here and what the operator's settings make of them."""
    for line in load("ordinaut.cli.inspection").listing():
        typer.echo(line)


def enable(id: Id, database_url: DatabaseUrl) -> None:
    """Turn an extension on, in every process, within seconds."""
    _choose(id, database_url, enabled=True)


def disable(id: Id, database_url: DatabaseUrl) -> None:
    """Turn an extension off, in every process, within seconds."""
    _choose(id, database_url, enabled=False)


def _choose(id: str, database_url: str, *, enabled: bool) -> None:
    load("ordinaut.cli.inspection").choose(id, database_url, enabled=enabled)
    typer.echo(f"{id} is {'enabled' if enabled else 'disabled'}")
