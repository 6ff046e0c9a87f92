"""Accounts and sessions of the console."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

DIGEST = sa.String(64)
NAME = sa.String(64)
ROLE = sa.String(16)
AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "account",
        sa.Column("name", NAME, nullable=False),
        sa.Column("role", ROLE, nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("created_at", AT, nullable=False),
        sa.Column("changed_at", AT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_account"),
    )
    op.create_table(
        "console_session",
        sa.Column("token", DIGEST, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("role", ROLE),
        sa.Column("seen_at", AT, nullable=False),
        sa.Column("expires_at", AT, nullable=False),
        sa.PrimaryKeyConstraint("token", name="pk_console_session"),
    )
    op.create_index("ix_console_session_name", "console_session", ["name"])
    op.create_table(
        "failed_sign_in",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("who", DIGEST, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("at", AT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_failed_sign_in"),
    )
    op.create_index("ix_failed_sign_in_who", "failed_sign_in", ["who"])
    op.create_index("ix_failed_sign_in_address", "failed_sign_in", ["address"])


def downgrade() -> None:
    """Back from this version."""
    for table in ("failed_sign_in", "console_session", "account"):
        op.drop_table(table)
