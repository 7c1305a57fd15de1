"""``ordinaut audit``: whether the audit log is as it was written."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import uvloop

from ordinaut.cli.servers import load
from ordinaut.config import Settings, load_settings

group = typer.Typer(no_args_is_help=True, help="The audit log.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(group, name="audit")


@group.callback()
def _group() -> None:
    """The audit log."""


@group.command("verify")
def verify(
    head: Annotated[
        str | None, typer.Option(help="A head that was noted before: it must be in the chain.")
    ] = None,
) -> None:
    """Tell whether an entry of the audit log was changed, removed or inserted; 1 if so.

    Needs the settings of the API, ORDINAUT_SECRET above all: the chain is keyed with it.
    """
    report = uvloop.run(_verify(load_settings(), head))
    for problem in report.problems:
        typer.echo(problem)
    waiting = f", {report.pending} not sealed yet" if report.pending else ""
    if report.pending_since is not None:
        waiting += f" (since {report.pending_since.isoformat(timespec='seconds')})"
    typer.echo(f"{report.head.position} entries{waiting}; head {report.head}")
    if report.problems:
        raise typer.Exit(1)


async def _verify(settings: Settings, head: str | None) -> Any:
    chain, database = load("ordinaut.store.chain"), load("ordinaut.store.database")
    async with (
        database.Database(settings.database_url, size=2, pooled=settings.pooled) as db,
        db.transaction() as tx,
    ):
        # One snapshot for all of it: entries are written and sealed meanwhile.
        await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return await chain.verify(tx, chain.keys_of(settings), noted=head)
