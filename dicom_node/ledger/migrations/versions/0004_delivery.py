"""How destinations do: their circuits, and which are held back."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """To this version."""
    with op.batch_alter_table("run") as run:
        run.add_column(sa.Column("withheld", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "destination",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("paused_at", AT),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", AT),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("failed_at", AT),
        sa.Column("answered_at", AT),
        sa.PrimaryKeyConstraint("name", name="pk_destination"),
    )


def downgrade() -> None:
    """Back to the version before."""
    op.drop_table("destination")
    with op.batch_alter_table("run") as run:
        run.drop_column("withheld")
