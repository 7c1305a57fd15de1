"""Commands that run until they are stopped, and ``migrate``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
import uvloop

from ordinaut import telemetry
from ordinaut.config import load_settings

Host = Annotated[str | None, typer.Option(help="The address to listen on.")]
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="The port to listen on.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (dev, api, scheduler, worker, migrate):
        app.command()(command)


def load(module: str) -> Any:
    """Import what only some commands need.

    FastAPI, redis, Alembic and the like take 0.3 to 0.6 s each, which ``ordinaut task list``
    should not pay; so this is the one place that imports late.
    """
    return importlib.import_module(module)


def dev(
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(".ordinaut"),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The port to listen on; 0 takes a free one.")
    ] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many workers.")] = 1,
    samples: Annotated[bool, typer.Option(help="Load tasks that show what it does.")] = True,
    database_url: Annotated[
        str | None, typer.Option(envvar="DATABASE_URL", help="Instead of a PostgreSQL of its own.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar="REDIS_URL", help="Instead of a Valkey of its own.")
    ] = None,
    pg_major: Annotated[
        int | None, typer.Option(envvar="ORDINAUT_PG_MAJOR", help="For new data: 16 or 18.")
    ] = None,
) -> None:
    """Start everything on this machine: servers, API, scheduler, workers, samples."""
    module = load("ordinaut.devserver.dev")
    module.run(
        module.Options(
            data_dir=data_dir,
            host=host,
            port=port,
            workers=workers,
            samples=samples,
            database_url=database_url or None,
            redis_url=redis_url or None,
            postgres_major=pg_major,
        )
    )


def api(host: Host = None, port: Port = None) -> None:
    """Serve the HTTP API."""
    _serve("ordinaut.api.main", process="api", host=host, port=port)


def scheduler() -> None:
    """Turn due schedules into due work, and do the cluster's housekeeping."""
    _serve("ordinaut.scheduler.daemon", process="scheduler")


def worker(
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="How many runs at once in each process.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="How many processes, started again when they end.")
    ] = 1,
    health_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The port of /health; 0 is off.")
    ] = None,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """Execute due work."""
    given = {"worker_concurrency": concurrency, "worker_health_port": health_port}
    if processes == 1:
        _serve("ordinaut.workers.runner", process="worker", options={"child": child}, **given)
    else:
        options = {"processes": processes}
        _serve("ordinaut.workers.fleet", process="workers", options=options, **given)


def migrate(
    database_url: Annotated[
        str,
        typer.Option(
            envvar=["DATABASE_DIRECT_URL", "DATABASE_URL"],
            help="The database, not through a pooler, as the owner of the tables.",
        ),
    ],
    app_role: Annotated[
        str, typer.Option(envvar="ORDINAUT_APP_ROLE", help="The role of the API and the workers.")
    ] = "ordinaut_app",
    scheduler_role: Annotated[
        str, typer.Option(envvar="ORDINAUT_SCHEDULER_ROLE", help="The role of the scheduler.")
    ] = "ordinaut_scheduler",
) -> None:
    """Bring the schema of the database to this version, and set the rights of the roles."""
    store, roles = load("ordinaut.store.migrate"), load("ordinaut.store.roles")
    store.upgrade(database_url)
    granted = roles.grant(database_url, app=app_role, scheduler=scheduler_role)
    rights = f"; rights were set for {' and '.join(granted)}" if granted else ""
    typer.echo(f"the schema is at {store.head()}{rights}")


def _serve(
    module: str,
    *,
    process: str,
    options: Mapping[str, Any] = MappingProxyType({}),
    **overrides: Any,
) -> None:
    """Run the ``serve`` coroutine of ``module`` until a signal ends it."""
    settings = load_settings(**overrides)
    telemetry.configure(level=settings.log_level, as_json=settings.log_json, process=process)
    uvloop.run(load(module).serve(settings, **options))
