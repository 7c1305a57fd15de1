"""Extensions that are turned on and off at run time."""

from importlib import resources

from alembic import op

revision = "0003_extension"
down_revision = "0002_waits"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
