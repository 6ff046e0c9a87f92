"""The workitems of worklists that this node claims."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UID = sa.String(64)
STATE = sa.String(16)
AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "workitem",
        sa.Column("sop_instance_uid", UID, nullable=False),
        sa.Column("worklist", sa.String(64), nullable=False),
        sa.Column("transaction_uid", UID, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("outcome", STATE, nullable=False),
        sa.Column("study_instance_uid", UID),
        sa.Column("run_id", sa.String(32)),
        sa.Column("plan", sa.String(128)),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("cancel_asked", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", AT),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", AT, nullable=False),
        sa.Column("changed_at", AT, nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", name="pk_workitem"),
    )
    op.create_index("ix_workitem_worklist", "workitem", ["worklist"])
    op.create_index("ix_workitem_study_instance_uid", "workitem", ["study_instance_uid"])


def downgrade() -> None:
    """Back to the version before."""
    op.drop_table("workitem")
