"""The place up to which events were read for the tasks that they start."""

from importlib import resources

from alembic import op

revision = "0004_triggers"
down_revision = "0003_extension"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
