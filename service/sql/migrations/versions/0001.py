"""Schemas have versions from here on; adds what the last databases without one may lack."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Add the tables of traces and counts, and the index of errors; let the next pending shard be found in an index."""
    there = sa.inspect(op.get_bind()).get_table_names()
    if "traces" not in there:
        op.create_table(
            "traces",
            sa.Column("evaluation_id", sa.String, sa.ForeignKey("evaluations.id"), primary_key=True),
            sa.Column("context", sa.Text, nullable=False),
            sa.Column("since", sa.Float, nullable=False),
        )
    if "counts" not in there:
        op.create_table(
            "counts",
            sa.Column("evaluation_id", sa.String, sa.ForeignKey("evaluations.id"), primary_key=True),
            sa.Column("status", sa.String, primary_key=True),
            *(sa.Column(name, sa.Integer, nullable=False) for name in ("shards", "images", "passes", "runs")),
            sa.Column("seconds", sa.Float, nullable=False),
        )
    op.drop_index("shards_by_evaluation", "shards", if_exists=True)
    op.create_index("shards_by_evaluation", "shards", ["evaluation_id", "status", "id"])
    failed = sa.text("error IS NOT NULL")
    op.create_index("shards_with_errors", "shards", ["evaluation_id"], sqlite_where=failed, if_not_exists=True)
