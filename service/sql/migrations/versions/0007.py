"""Adds API keys that are made by command."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add their table; a name is free again once its key is revoked."""
    op.create_table(
        "api_keys",
        sa.Column("sha256", sa.String, primary_key=True),
        sa.Column("session_sha256", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
    )
    valid = sa.text("revoked_at IS NULL")
    op.create_index("api_keys_by_name", "api_keys", ["name"], unique=True, sqlite_where=valid, postgresql_where=valid)
