"""Keys of the queue's occurrences are kept one by one."""

from importlib import resources

from alembic import op

revision = "0006_queue_index"
down_revision = "0005_run_log"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
