"""For ledgers of years: which run a study stands by, and indices for what was looked for in whole tables."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_DELIVERY = (("run_id", "state", "destination"), ("result_id", "state"), ("destination", "state", "delivered_at"))
# False as both databases say it. A run that nobody gets to see stands behind the one before it.
_MARK = """
UPDATE run SET latest = (1 = 0)
WHERE (run.state = 'IGNORED' AND run.reason LIKE 'no image came after%')
   OR EXISTS (
       SELECT 1 FROM run AS later
       WHERE later.study_instance_uid = run.study_instance_uid AND later.number > run.number
         AND NOT (later.state = 'IGNORED' AND later.reason LIKE 'no image came after%')
   )
"""


def upgrade() -> None:
    """To this version."""
    op.add_column("run", sa.Column("latest", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.execute(_MARK)
    _create_partial("ix_run_latest_created_at", "run", ["created_at", "id"], "latest = 1", "latest")
    _create_partial("ix_run_latest_state_changed_at", "run", ["state", "changed_at"], "latest = 1", "latest")
    op.create_index("ix_run_route", "run", ["route"])
    op.drop_index("ix_delivery_run_id_destination", "delivery")
    for columns in _DELIVERY:
        op.create_index(f"ix_delivery_{'_'.join(columns)}", "delivery", list(columns))
    uncommitted = "committed_at IS NULL"
    _create_partial("ix_delivery_uncommitted", "delivery", ["destination", "state"], uncommitted, uncommitted)
    _unaudited("audited = 0")


def downgrade() -> None:
    """Back from this version."""
    _unaudited("NOT audited")
    op.drop_index("ix_delivery_uncommitted", "delivery")
    for columns in _DELIVERY:
        op.drop_index(f"ix_delivery_{'_'.join(columns)}", "delivery")
    op.create_index("ix_delivery_run_id_destination", "delivery", ["run_id", "destination"])
    op.drop_index("ix_run_route", "run")
    op.drop_index("ix_run_latest_state_changed_at", "run")
    op.drop_index("ix_run_latest_created_at", "run")
    op.drop_column("run", "latest")


def _unaudited(sqlite: str) -> None:
    op.drop_index("ix_event_unaudited", "event")
    _create_partial("ix_event_unaudited", "event", ["id"], sqlite, "NOT audited")


def _create_partial(name: str, table: str, columns: list[str], sqlite: str, postgresql: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(sqlite), postgresql_where=sa.text(postgresql))
