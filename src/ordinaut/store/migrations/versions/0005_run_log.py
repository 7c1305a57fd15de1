"""What tools say while they run: the lines of the log, and how far they have come."""

from importlib import resources

from alembic import op

revision = "0005_run_log"
down_revision = "0004_triggers"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    # Without parameters the driver leaves the percent signs of format() alone.
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
