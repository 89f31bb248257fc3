"""Progress within an image, parts that are yet to be cut into shards, limits of evaluations, and how long they are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Let a running shard be done in parts, and a row be several shards; let evaluations have limits and an end."""
    op.drop_column("shards", "images_done")
    op.add_column("shards", sa.Column("share_done", sa.Float, nullable=False, server_default="0"))
    op.add_column("shards", sa.Column("shards", sa.Integer, nullable=False, server_default="1"))
    op.add_column("evaluations", sa.Column("max_devices", sa.Integer))
    op.add_column("evaluations", sa.Column("max_hours", sa.Float))
    op.add_column("evaluations", sa.Column("device_s", sa.Float, nullable=False, server_default="0"))
    op.add_column("evaluations", sa.Column("ended_at", sa.Float))
    op.add_column("evaluations", sa.Column("removed_at", sa.Float))
    large = sa.Integer().with_variant(sa.BigInteger, "postgresql")
    op.add_column("results", sa.Column("bytes", large, nullable=False, server_default="0"))
    is_sqlite = op.get_context().dialect.name == "sqlite"
    size = "length(CAST({} AS BLOB))" if is_sqlite else "octet_length({})"
    op.execute(f"UPDATE results SET bytes = {size.format('tally')} + {size.format('result')}")  # noqa: S608  # no input
    op.create_index("results_by_bytes", "results", ["bytes"])
