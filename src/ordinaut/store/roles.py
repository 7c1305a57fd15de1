"""The rights of the roles that processes sign in with; the owner of the tables runs migrations.

::

    owner      makes and changes tables                     ordinaut migrate
    app        reads and writes rows; the audit log grows   ordinaut api, worker
    scheduler  the same, partitions, seals and its jobs     ordinaut scheduler

An installation may have one role for everything: then there is nothing to grant.
"""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import sql

from ordinaut.store.database import CONNECT_TIMEOUT, Queries

SQL = Queries("roles")

APP: Final = "ordinaut_app"
SCHEDULER: Final = "ordinaut_scheduler"


def grant(url: str, *, app: str = APP, scheduler: str = SCHEDULER) -> tuple[str, ...]:
    """Give the roles that exist their rights, and take all others; returns which exist.

    Without a role of its own the scheduler has that of the application. ``url`` is the owner's.
    """
    with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT) as connection:
        found = connection.execute(SQL["exists"], {"names": [app, scheduler]}).fetchall()
        known = {name for (name,) in found}
        if app not in known:
            return ()
        connection.execute(SQL["begin"])
        names = {
            "app": app,
            "scheduler": scheduler if scheduler in known else app,
            "database": connection.info.dbname,
        }
        steps = ["close", "lend", "app", "scheduler"] + ["member"] * (scheduler in known)
        for step in steps:
            _run(connection, step, names)
    return tuple(name for name in (app, scheduler) if name in known)


def create(url: str, name: str, *, password: str) -> None:
    """Make a role that may sign in, or give it this password. ``url`` is that of a superuser."""
    with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT) as connection:
        known = connection.execute(SQL["exists"], {"names": [name]}).fetchone()
        verb = "ALTER" if known else "CREATE"
        statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
            sql.SQL(verb), sql.Identifier(name), sql.Literal(password)
        )
        connection.execute(statement)


def _run(connection: psycopg.Connection, step: str, names: dict[str, str]) -> None:
    # Names can not be parameters of such statements; they are quoted as identifiers.
    identifiers = {key: sql.Identifier(name) for key, name in names.items()}
    connection.execute(sql.SQL(SQL[step]).format(**identifiers))
