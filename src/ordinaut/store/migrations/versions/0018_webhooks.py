"""Webhooks: who is told of events, with which secret, and what became of each delivery."""

from importlib import resources

from alembic import op

revision = "0018_webhooks"
down_revision = "0017_probe"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
