"""``ordinaut task``: tasks of a running server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ordinaut.cli.remote import AsJson, group, show, target
from ordinaut.cli.runs import COLUMNS as RUN_COLUMNS
from ordinaut.cli.servers import load

COLUMNS = ("id", "status", "title", "schedule_kind", "schedule_expr", "next_run_at")

TaskId = Annotated[str, typer.Argument(help="The id of a task.")]


def add_to(app: typer.Typer) -> None:
    """Register the group of commands."""
    made = group(app, "task", about="Create, list, run, pause and end tasks of a server.")
    commands = (find, show_one, create, run, pause, resume, snooze, cancel, delete, occurrences)
    for command in commands:
        made.command({find: "list", show_one: "show"}.get(command))(command)


def find(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="active, paused, canceled or completed.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="key:value; may be repeated.")] = None,
    words: Annotated[str | None, typer.Option(help="Part of title or description.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List tasks, newest first."""
    found = load("ordinaut.cli.calls").pages(
        target(context), "/tasks", limit=limit, status=status, label=label, q=words
    )
    show(found, as_json=as_json, columns=COLUMNS)


def show_one(context: typer.Context, task_id: TaskId) -> None:
    """Show a task with its pipeline, next occurrence and last run."""
    show(target(context).call("GET", f"/tasks/{task_id}"), as_json=True, columns=COLUMNS)


def create(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A file with the task as JSON; - is stdin.")],
    as_json: AsJson = False,
) -> None:
    """Create a task from a file."""
    body = load("ordinaut.cli.calls").read_json(file)
    show(target(context).call("POST", "/tasks", json=body), as_json=as_json, columns=COLUMNS)


def run(
    context: typer.Context,
    task_id: TaskId,
    param: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the run has ended.")] = False,
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Run a task now; with --wait the exit code is 1 unless the run succeeds."""
    calls: Any = load("ordinaut.cli.calls")
    body = {"params": calls.parameters(param)} if param else {}
    made = target(context).call("POST", f"/tasks/{task_id}/run_now", json=body)
    if wait:
        made = calls.wait(target(context), made["id"], seconds=seconds)
    show(made, as_json=as_json, columns=RUN_COLUMNS)
    if wait and made["status"] != "succeeded":
        raise typer.Exit(1)


def pause(context: typer.Context, task_id: TaskId) -> None:
    """Let a task fire no more until it is resumed."""
    _act(context, task_id, "pause")


def resume(
    context: typer.Context,
    task_id: TaskId,
    catchup: Annotated[
        str | None, typer.Option(help="What fell into the pause: last, all or none.")
    ] = None,
) -> None:
    """Let a paused task fire again."""
    _act(context, task_id, "resume", **({"catchup": catchup} if catchup else {}))


def snooze(
    context: typer.Context,
    task_id: TaskId,
    until: Annotated[str | None, typer.Option(help="An RFC 3339 time.")] = None,
    seconds: Annotated[int | None, typer.Option(min=1, help="After its own time.")] = None,
) -> None:
    """Move exactly the next occurrence of a task."""
    given = {"until": until, "seconds": seconds}
    _act(context, task_id, "snooze", **{name: v for name, v in given.items() if v is not None})


def cancel(context: typer.Context, task_id: TaskId) -> None:
    """End a task for good, with its runs."""
    _act(context, task_id, "cancel")


def delete(context: typer.Context, task_id: TaskId) -> None:
    """Take a task out of sight; its history stays."""
    target(context).call("DELETE", f"/tasks/{task_id}")
    typer.echo(f"deleted {task_id}")


def occurrences(context: typer.Context, task_id: TaskId, as_json: AsJson = False) -> None:
    """Show what became of past occurrences of a task, and when the next ones come."""
    found = target(context).call("GET", f"/tasks/{task_id}/occurrences")
    show(found, as_json=as_json, columns=("scheduled_for", "verdict", "run_status", "reason"))


def _act(context: typer.Context, task_id: str, action: str, **body: Any) -> None:
    done = target(context).call("POST", f"/tasks/{task_id}/{action}", json=body)
    show(done, as_json=False, columns=COLUMNS)
