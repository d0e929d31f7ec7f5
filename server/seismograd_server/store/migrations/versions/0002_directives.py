"""Directives: what jobs are asked for, and what each rank understands and answers.

A migration is history: it is never changed again, and so repeats what `schema.py` says today.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only where the type is spelled INTEGER.
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Two tables, and a column that is empty for ranks that opened before: nothing is asked of them."""
    op.add_column("ranks", sa.Column("capabilities", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.create_table(
        "directives",
        sa.Column("directive_row", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("directive_id", sa.Text(), nullable=False),
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("alert_id", sa.Text(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_directives_run_id"),
        sa.PrimaryKeyConstraint("directive_row", name="pk_directives"),
        sa.UniqueConstraint("directive_id", name="uq_directives_directive_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_directives_run_id", "directives", ["run_id"])
    op.create_table(
        "directive_addressees",
        sa.Column("directive_row", _NUMBER, nullable=False),
        sa.Column("rank_handle", _NUMBER, nullable=False),
        sa.Column("sent_at", sa.Double()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger()),
        sa.Column("by_another_rank", sa.SmallInteger(), nullable=False),
        sa.Column("answered_at", sa.Double()),
        sa.ForeignKeyConstraint(
            ["directive_row"], ["directives.directive_row"], name="fk_directive_addressees_directive_row"
        ),
        sa.ForeignKeyConstraint(["rank_handle"], ["ranks.handle"], name="fk_directive_addressees_rank_handle"),
        sa.PrimaryKeyConstraint("directive_row", "rank_handle", name="pk_directive_addressees"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_directive_addressees_rank_handle", "directive_addressees", ["rank_handle"])
