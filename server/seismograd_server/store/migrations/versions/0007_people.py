"""What people do to alerts: silences, verdicts, and who did what in an alert's history.

A migration is history: it is never changed again, and so repeats what `schema.py` says today.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only where the type is spelled INTEGER.
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXTS = ("author", "reason", "project", "run", "signature", "ended_by")


def upgrade() -> None:
    """Nothing is silenced or judged yet; people have heard of what fired and was not inhibited."""
    nothing, empty = sa.text("0"), sa.text("''")
    op.add_column("alerts", sa.Column("told", sa.SmallInteger(), nullable=False, server_default=nothing))
    for table, name in (
        ("alerts", "silenced_by"),
        ("alerts", "verdict"),
        ("alert_transitions", "author"),
        ("alert_transitions", "note"),
    ):
        op.add_column(table, sa.Column(name, sa.Text(), nullable=False, server_default=empty))
    alerts = sa.table(
        "alerts",
        sa.column("told", sa.SmallInteger()),
        sa.column("severity", sa.SmallInteger()),
        sa.column("state", sa.Text()),
        sa.column("inhibited_by", sa.Text()),
    )
    heard = sa.and_(alerts.c.state != "pending", alerts.c.inhibited_by == "")
    op.execute(alerts.update().where(heard).values(told=alerts.c.severity))
    op.create_table(
        "silences",
        sa.Column("silence_row", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("silence_id", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _TEXTS),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("silence_row", name="pk_silences"),
        sa.UniqueConstraint("silence_id", name="uq_silences_silence_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_silences_expires_at", "silences", ["expires_at"])
