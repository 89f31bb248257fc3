"""Devices of the dispatcher."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table of devices."""
    op.create_table(
        "devices",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("shard_id", sa.Integer),
        sa.Column("since", sa.Float),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("resumes_at", sa.Float),
        sa.Column("problem", sa.Text),
    )
