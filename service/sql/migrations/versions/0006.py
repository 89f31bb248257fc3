"""What people write on evaluations, and the words by which they are found."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Let every evaluation have a label, and be found by its id, its models and its data set."""
    op.add_column("evaluations", sa.Column("label", sa.Text, nullable=False, server_default="{}"))
    op.add_column("evaluations", sa.Column("words", sa.Text, nullable=False, server_default=""))
    db = op.get_bind()
    for evaluation_id, plan in db.execute(sa.text("SELECT id, plan FROM evaluations")).all():
        try:
            spec = json.loads(plan)["spec"]
            words = "\n".join([evaluation_id, *spec["models"], spec["dataset"]]).casefold()
        except (ValueError, KeyError, TypeError):  # a damaged plan, which stays one
            words = evaluation_id
        db.execute(
            sa.text("UPDATE evaluations SET words = :words WHERE id = :id"), {"id": evaluation_id, "words": words}
        )
