"""Storage commitment in both roles, and when files were removed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UID = sa.String(64)
STATE = sa.String(16)
AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", UID, nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("requested_at", AT, nullable=False),
        sa.Column("next_attempt_at", AT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_commitment_run_id"),
        sa.PrimaryKeyConstraint("transaction_uid", name="pk_commitment"),
    )
    op.create_index("ix_commitment_run_id_destination", "commitment", ["run_id", "destination"])
    op.create_table(
        "commitment_report",
        sa.Column("transaction_uid", UID, nullable=False),
        sa.Column("calling_aet", sa.String(16), nullable=False),
        sa.Column("called_aet", sa.String(16), nullable=False),
        sa.Column("instances", sa.Text(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", AT, nullable=False),
        sa.Column("next_attempt_at", AT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("transaction_uid", name="pk_commitment_report"),
    )
    op.create_index("ix_commitment_report_state_next_attempt_at", "commitment_report", ["state", "next_attempt_at"])
    op.add_column("delivery", sa.Column("committed_at", AT))
    op.add_column("instance", sa.Column("committed_at", AT))
    op.add_column("instance", sa.Column("purged_at", AT))
    op.add_column("result", sa.Column("purged_at", AT))
    op.create_index("ix_instance_sop_instance_uid", "instance", ["sop_instance_uid"])
    op.create_index("ix_result_series_instance_uid", "result", ["series_instance_uid"])


def downgrade() -> None:
    """Back to the version before."""
    op.drop_index("ix_result_series_instance_uid", "result")
    op.drop_index("ix_instance_sop_instance_uid", "instance")
    for table, column in (
        ("result", "purged_at"),
        ("instance", "purged_at"),
        ("instance", "committed_at"),
        ("delivery", "committed_at"),
    ):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
    op.drop_table("commitment_report")
    op.drop_table("commitment")
