"""``ordinaut agent``: what must be possible before anybody can sign in."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from ordinaut.cli.servers import load
from ordinaut.config import Settings, load_settings
from ordinaut.errors import Conflict

group = typer.Typer(no_args_is_help=True, help="Agents: who may do what.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(group, name="agent")


@group.callback()
def _group() -> None:
    """Agents: who may do what."""


@group.command("bootstrap")
def bootstrap(
    name: Annotated[str, typer.Argument(help="What the agent is called.")] = "admin",
) -> None:
    """Give an agent with the scope admin a new key, straight in the database; shown once.

    Needs the settings of the API, ORDINAUT_SECRET above all: the stored key depends on it.
    """
    settings = load_settings()
    typer.echo(uvloop.run(_bootstrap(settings, name)))


async def _bootstrap(settings: Settings, name: str) -> str:
    agents, database = load("ordinaut.store.agents"), load("ordinaut.store.database")
    key: str = agents.new_key()
    async with (
        database.Database(settings.database_url, size=2, pooled=settings.pooled) as db,
        db.transaction() as tx,
    ):
        agent = await agents.bootstrap(tx, name=name, api_key=key, pepper=agents.pepper(settings))
        if not agent.may("admin"):
            raise Conflict(f"the agent {name!r} exists and is no admin; choose another name")
    return key
