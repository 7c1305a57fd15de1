"""Which server the commands of a group speak to, and as whom."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ordinaut.cli.servers import load
from ordinaut.errors import InvalidInput, NotFound

Url = Annotated[str | None, typer.Option(envvar="ORDINAUT_URL", help="Where the API answers.")]
Key = Annotated[
    str | None, typer.Option(envvar="ORDINAUT_API_KEY", help="An API key or access token.")
]
DataDir = Annotated[
    Path, typer.Option(help="Where to look for a running `ordinaut dev` otherwise.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as it came.")]


@dataclass(frozen=True, slots=True)
class Target:
    """An API and a credential for it."""

    url: str
    api_key: str

    def call(self, method: str, path: str, **request: Any) -> Any:
        """Return the answer of the API; raises what the API says is wrong."""
        return load("ordinaut.cli.calls").call(self, method, path, **request)


def group(app: typer.Typer, name: str, *, about: str) -> typer.Typer:
    """Add a group of commands that share the options of a :class:`Target`."""
    made = typer.Typer(no_args_is_help=True, callback=_choose)
    app.add_typer(made, name=name, help=about)
    return made


def _choose(
    context: typer.Context,
    url: Url = None,
    api_key: Key = None,
    data_dir: DataDir = Path(".ordinaut"),
) -> None:
    context.obj = (url, api_key, data_dir)


def target(context: typer.Context) -> Target:
    """Return what the options of the group lead to; raises when they lead nowhere."""
    url, api_key, data_dir = context.obj
    if not (url and api_key):
        with contextlib.suppress(NotFound):
            running = load("ordinaut.devserver.state").read(data_dir)
            url, api_key = url or running.url, api_key or running.api_key
    if not (url and api_key):
        raise InvalidInput(
            "which server? set ORDINAUT_URL and ORDINAUT_API_KEY, or start `ordinaut dev`"
        )
    return Target(url.rstrip("/"), api_key)


def show(answer: Any, *, as_json: bool, columns: tuple[str, ...]) -> None:
    """Print a page or a single thing, as a table or as JSON."""
    load("ordinaut.cli.calls").show(answer, as_json=as_json, columns=columns)
