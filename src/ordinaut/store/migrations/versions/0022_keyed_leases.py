"""Leases of work with a concurrency key by its urgency, and with fewer rows and entries."""

from importlib import resources

from alembic import op

revision = "0022_keyed_leases"
down_revision = "0021_browser_session"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
