"""One row of the outbox may hold several events of a run."""

from importlib import resources

from alembic import op

revision = "0009_event_groups"
down_revision = "0008_subject"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
