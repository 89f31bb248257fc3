"""Devices of the dispatcher, pauses and priorities."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables of devices and of the pause of all, and what an evaluation has of its own."""
    op.create_table(
        "devices",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("shard_id", sa.Integer),
        sa.Column("since", sa.Float),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("resumes_at", sa.Float),
        sa.Column("problem", sa.Text),
    )
    op.create_table("queue", sa.Column("paused_at", sa.Float, primary_key=True))
    op.add_column("evaluations", sa.Column("paused_at", sa.Float))
    op.add_column("evaluations", sa.Column("priority", sa.String, nullable=False, server_default="normal"))
