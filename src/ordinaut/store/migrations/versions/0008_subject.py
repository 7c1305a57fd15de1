"""Agents that sign in with another issuer's tokens."""

from importlib import resources

from alembic import op

revision = "0008_subject"
down_revision = "0007_audit_chain"


def upgrade() -> None:
    sql = resources.files("ordinaut.store").joinpath(f"migrations/versions/{revision}.sql")
    bind = op.get_bind().execution_options(no_parameters=True)
    bind.exec_driver_sql(sql.read_text())
