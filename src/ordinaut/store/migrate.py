"""Bring the schema of a database to this version: forward only, one process at a time."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.pool import NullPool

LOCK = 0x0D14A07  # the advisory lock that lets one process migrate while the others wait


def sqlalchemy_url(url: str) -> str:
    """Return ``url`` in the form that makes SQLAlchemy use psycopg 3."""
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def upgrade(url: str) -> None:
    """Apply the migrations that are missing; a second caller waits and then finds none.

    ``url`` must not lead through a pooler: the lock belongs to the session.
    """
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        connection.commit()
        command.upgrade(_config(connection), "head")
        connection.commit()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
        connection.commit()
    engine.dispose()


def head() -> str:
    """Return the revision that this version of the code expects."""
    revision = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert revision is not None  # the package ships at least one migration
    return revision


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("ordinaut.store") / "migrations"))
    config.attributes["connection"] = connection
    return config
