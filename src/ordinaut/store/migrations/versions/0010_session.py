"""The age of a family of refresh tokens."""

from importlib import resources

from alembic import op

revision = "0010_session"
down_revision = "0009_event_groups"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
