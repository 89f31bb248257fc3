"""Progress within an image."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Let a running shard be done in parts, whatever its images."""
    op.drop_column("shards", "images_done")
    op.add_column("shards", sa.Column("share_done", sa.Float, nullable=False, server_default="0"))
