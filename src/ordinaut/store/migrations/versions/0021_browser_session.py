"""Sessions of people who signed in with a browser."""

from importlib import resources

from alembic import op

revision = "0021_browser_session"
down_revision = "0020_worker_lost"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
