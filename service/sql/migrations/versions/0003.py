"""Adds the webhooks that are to be called."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add their table."""
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("evaluation_id", sa.String, sa.ForeignKey("evaluations.id"), nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Float, nullable=False),
        sa.UniqueConstraint("evaluation_id", "owner", "url"),
        if_not_exists=True,
    )
