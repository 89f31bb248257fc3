"""When shards failed, and indexes for the latest failures, of all and of an owner."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Let a failure have its time; of an earlier one it is when its evaluation ended or, as far as is known, began."""
    op.add_column("shards", sa.Column("failed_at", sa.Float))
    when = "SELECT coalesce(ended_at, created_at) FROM evaluations WHERE evaluations.id = shards.evaluation_id"
    op.execute(f"UPDATE shards SET failed_at = ({when}) WHERE error IS NOT NULL")  # noqa: S608  # no input
    failed = sa.text("error IS NOT NULL")
    op.create_index("shards_by_failure", "shards", ["failed_at"], sqlite_where=failed, postgresql_where=failed)
    op.create_index("owners_by_owner", "owners", ["owner"])
