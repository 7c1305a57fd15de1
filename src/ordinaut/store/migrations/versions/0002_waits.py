"""Runs that wait for events."""

from importlib import resources

from alembic import op

revision = "0002_waits"
down_revision = "0001_initial"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
