"""The first tables: studies, their runs, instances, results and deliveries, leases, and the audit record."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UID = sa.String(64)
RUN_ID = sa.String(32)
STATE = sa.String(16)
AT = sa.DateTime(timezone=True)
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
RECEIVING = sa.text("state = 'RECEIVING'")


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "lease",
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("expires_at", AT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_lease"),
    )
    op.create_table(
        "study",
        sa.Column("study_instance_uid", UID, nullable=False),
        sa.Column("created_at", AT, nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", name="pk_study"),
    )
    op.create_table(
        "run",
        sa.Column("id", RUN_ID, nullable=False),
        sa.Column("study_instance_uid", UID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("supersedes", RUN_ID),
        sa.Column("state", STATE, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", AT, nullable=False),
        sa.Column("changed_at", AT, nullable=False),
        sa.Column("last_image_at", AT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", AT),
        sa.Column("dispatched_at", AT),
        sa.Column("reading_digest", sa.String(64)),
        sa.ForeignKeyConstraint(["study_instance_uid"], ["study.study_instance_uid"], name="fk_run_study_instance_uid"),
        sa.ForeignKeyConstraint(["supersedes"], ["run.id"], name="fk_run_supersedes"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.UniqueConstraint("study_instance_uid", "number", name="uq_run_study_instance_uid_number"),
    )
    op.create_index("ix_run_state", "run", ["state"])
    op.create_index(
        "uq_run_receiving",
        "run",
        ["study_instance_uid"],
        unique=True,
        sqlite_where=RECEIVING,
        postgresql_where=RECEIVING,
    )
    op.create_table(
        "event",
        sa.Column("id", BIG, nullable=False),
        sa.Column("study_instance_uid", UID, nullable=False),
        sa.Column("run_id", RUN_ID),
        sa.Column("at", AT, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("from_state", STATE),
        sa.Column("to_state", STATE),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_event_run_id"),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name="fk_event_study_instance_uid"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
    )
    op.create_index("ix_event_study_instance_uid", "event", ["study_instance_uid"])
    op.create_table(
        "instance",
        sa.Column("id", BIG, nullable=False),
        sa.Column("study_instance_uid", UID, nullable=False),
        sa.Column("run_id", RUN_ID),
        sa.Column("series_instance_uid", UID, nullable=False),
        sa.Column("sop_instance_uid", UID, nullable=False),
        sa.Column("sop_class_uid", UID, nullable=False),
        sa.Column("transfer_syntax_uid", UID, nullable=False),
        sa.Column("calling_aet", sa.String(16), nullable=False),
        sa.Column("called_aet", sa.String(16), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("received_at", AT, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_instance_run_id"),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name="fk_instance_study_instance_uid"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
        sa.UniqueConstraint("path", name="uq_instance_path"),
    )
    op.create_index("ix_instance_run_id", "instance", ["run_id"])
    op.create_index(
        "ix_instance_study_instance_uid_sop_instance_uid", "instance", ["study_instance_uid", "sop_instance_uid"]
    )
    op.create_table(
        "result",
        sa.Column("id", BIG, nullable=False),
        sa.Column("run_id", RUN_ID, nullable=False),
        sa.Column("sop_instance_uid", UID, nullable=False),
        sa.Column("sop_class_uid", UID, nullable=False),
        sa.Column("series_instance_uid", UID, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("created_at", AT, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_result_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_result"),
        sa.UniqueConstraint("run_id", "sop_instance_uid", name="uq_result_run_id_sop_instance_uid"),
    )
    op.create_index("ix_result_sop_instance_uid", "result", ["sop_instance_uid"])
    op.create_table(
        "delivery",
        sa.Column("id", BIG, nullable=False),
        sa.Column("run_id", RUN_ID, nullable=False),
        sa.Column("result_id", BIG, nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", AT, nullable=False),
        sa.Column("next_attempt_at", AT),
        sa.Column("dispatched_at", AT),
        sa.Column("delivered_at", AT),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_delivery_result_id"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_delivery_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
        sa.UniqueConstraint("result_id", "destination", name="uq_delivery_result_id_destination"),
    )
    op.create_index("ix_delivery_run_id_destination", "delivery", ["run_id", "destination"])
    op.create_index("ix_delivery_state_next_attempt_at", "delivery", ["state", "next_attempt_at"])


def downgrade() -> None:
    """Back to an empty database."""
    for table in ("delivery", "result", "instance", "event", "run", "study", "lease"):
        op.drop_table(table)
