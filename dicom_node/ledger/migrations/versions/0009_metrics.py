"""Tallies for metrics, and which events the audit trail has had."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "tally",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("first", sa.String(128), nullable=False),
        sa.Column("second", sa.String(128), nullable=False),
        sa.Column("value", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("name", "first", "second", name="pk_tally"),
    )
    op.add_column("event", sa.Column("audited", sa.Boolean(), nullable=False, server_default=sa.true()))
    unaudited = sa.text("NOT audited")
    op.create_index("ix_event_unaudited", "event", ["id"], sqlite_where=unaudited, postgresql_where=unaudited)


def downgrade() -> None:
    """Back from this version."""
    op.drop_index("ix_event_unaudited", "event")
    op.drop_column("event", "audited")
    op.drop_table("tally")
