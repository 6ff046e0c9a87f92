"""What routing needs: the decision on a run, the headers of instances, and the switches by hand."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

AT = sa.DateTime(timezone=True)
UNREAD = sa.text("header IS NULL")


def upgrade() -> None:
    """To this version."""
    with op.batch_alter_table("run") as run:
        run.add_column(sa.Column("route", sa.String(64)))
        run.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="2"))
        run.add_column(sa.Column("decision", sa.Text()))
        run.add_column(sa.Column("plan", sa.String(128)))
        run.add_column(sa.Column("findings", sa.Integer()))
    with op.batch_alter_table("instance") as instance:
        instance.add_column(sa.Column("header", sa.Text()))
    op.create_index(
        "ix_instance_unread",
        "instance",
        ["study_instance_uid"],
        sqlite_where=UNREAD,
        postgresql_where=UNREAD,
    )
    op.create_table(
        "switch",
        sa.Column("name", sa.String(96), nullable=False),
        sa.Column("value", sa.String(32), nullable=False),
        sa.Column("at", AT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_switch"),
    )


def downgrade() -> None:
    """Back to the version before."""
    op.drop_table("switch")
    op.drop_index("ix_instance_unread", "instance")
    with op.batch_alter_table("instance") as instance:
        instance.drop_column("header")
    with op.batch_alter_table("run") as run:
        for column in ("findings", "plan", "decision", "priority", "route"):
            run.drop_column(column)
