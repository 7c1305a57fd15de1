"""``ordinaut run``: runs of a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from ordinaut.cli.remote import AsJson, group, show, target
from ordinaut.cli.servers import load

COLUMNS = ("id", "status", "task_title", "trigger", "attempt", "scheduled_for", "finished_at")

RunId = Annotated[str, typer.Argument(help="The id of a run.")]


def add_to(app: typer.Typer) -> None:
    """Register the group of commands."""
    made = group(app, "run", about="List, show, cancel, retry and await runs of a server.")
    for command in (find, show_one, cancel, retry, wait):
        made.command({find: "list", show_one: "show"}.get(command))(command)


def find(
    context: typer.Context,
    task: Annotated[str | None, typer.Option(help="The id of a task.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="queued, running, failed …; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    found = load("ordinaut.cli.calls").pages(
        target(context), "/runs", limit=limit, task_id=task, status=status
    )
    show(found, as_json=as_json, columns=COLUMNS)


def show_one(context: typer.Context, run_id: RunId) -> None:
    """Show a run with its steps."""
    show(target(context).call("GET", f"/runs/{run_id}"), as_json=True, columns=COLUMNS)


def cancel(context: typer.Context, run_id: RunId) -> None:
    """End a queued run, or ask the worker of a running one to stop."""
    done = target(context).call("POST", f"/runs/{run_id}/cancel")
    show(done, as_json=False, columns=COLUMNS)


def retry(context: typer.Context, run_id: RunId) -> None:
    """Queue a run that failed once more, from its last checkpoint."""
    done = target(context).call("POST", f"/runs/{run_id}/retry")
    show(done, as_json=False, columns=COLUMNS)


def wait(
    context: typer.Context,
    run_id: RunId,
    seconds: Annotated[float, typer.Option(min=0, help="How long.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Wait until a run has ended; exit code 1 unless it succeeded."""
    ended = load("ordinaut.cli.calls").wait(target(context), run_id, seconds=seconds)
    show(ended, as_json=as_json, columns=COLUMNS)
    raise typer.Exit(int(ended["status"] != "succeeded"))
