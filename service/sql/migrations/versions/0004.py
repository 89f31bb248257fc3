"""Lets a row of the shards be a part that is yet to be cut into several."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add how many shards a row is."""
    op.add_column("shards", sa.Column("shards", sa.Integer, nullable=False, server_default="1"))
