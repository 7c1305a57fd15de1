"""How long the runs of a task are kept."""

from importlib import resources

from alembic import op

revision = "0019_task_retention"
down_revision = "0018_webhooks"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
