"""Progress within an image, limits of evaluations."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Let a running shard be done in parts, whatever its images; let evaluations have limits."""
    op.drop_column("shards", "images_done")
    op.add_column("shards", sa.Column("share_done", sa.Float, nullable=False, server_default="0"))
    op.add_column("evaluations", sa.Column("max_devices", sa.Integer))
    op.add_column("evaluations", sa.Column("max_hours", sa.Float))
    op.add_column("evaluations", sa.Column("device_s", sa.Float, nullable=False, server_default="0"))
