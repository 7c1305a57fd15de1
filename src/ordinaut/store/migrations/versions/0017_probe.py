"""The probes of condition tasks."""

from importlib import resources

from alembic import op

revision = "0017_probe"
down_revision = "0016_extension_config"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
