"""What completion and the queue need: transfers, expected counts, studies held by hand, and jumps of the clock."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UID = sa.String(64)
AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """To this version."""
    op.add_column("study", sa.Column("held_at", AT))
    op.add_column("run", sa.Column("gathers", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("run", sa.Column("queue", sa.String(64), nullable=False, server_default=""))
    op.add_column("run", sa.Column("losses", sa.Integer(), nullable=False, server_default="0"))
    op.execute(sa.text("UPDATE run SET gathers = false WHERE state <> 'RECEIVING'"))
    op.create_index("ix_run_state_last_image_at", "run", ["state", "last_image_at"])
    op.create_index("ix_run_state_priority_created_at", "run", ["state", "priority", "created_at"])
    op.create_table(
        "sending",
        sa.Column("transfer", sa.String(32), nullable=False),
        sa.Column("study_instance_uid", UID, nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("ended_at", AT),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name="fk_sending_study_instance_uid"
        ),
        sa.PrimaryKeyConstraint("transfer", "study_instance_uid", name="pk_sending"),
    )
    op.create_index("ix_sending_study_instance_uid", "sending", ["study_instance_uid"])
    op.create_table(
        "expectation",
        sa.Column("study_instance_uid", UID, nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("instances", sa.Integer()),
        sa.Column("since", AT, nullable=False),
        sa.Column("asked_at", AT, nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name="fk_expectation_study_instance_uid"
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", name="pk_expectation"),
    )
    op.create_table(
        "clock_zero",
        sa.Column("host", sa.String(64), nullable=False),
        sa.Column("zero_at", AT, nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_clock_zero"),
    )


def downgrade() -> None:
    """Back to the version before."""
    for table in ("clock_zero", "expectation", "sending"):
        op.drop_table(table)
    op.drop_index("ix_run_state_priority_created_at", "run")
    op.drop_index("ix_run_state_last_image_at", "run")
    for table, column in (("run", "losses"), ("run", "queue"), ("run", "gathers"), ("study", "held_at")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
