"""Summaries of long runs.

A migration is history: it is never changed again, and so repeats what `summary_tables.py` says today.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from seismograd_server.store.migrations.partitions import create_partitions

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None

# As in the first migration.
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_UNSIGNED = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    """Two tables, empty: what is stored already is summarised as soon as a server runs."""
    op.create_table(
        "summary_lines",
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("attempt", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("branch", _UNSIGNED, nullable=False, autoincrement=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_summary_lines_run_id"),
        sa.PrimaryKeyConstraint("run_id", "optimizer", "attempt", "branch", name="pk_summary_lines"),
    )
    op.create_table(
        "summaries",
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("bucket_steps", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("attempt", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("branch", _UNSIGNED, nullable=False, autoincrement=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_summaries_run_id"),
        sa.PrimaryKeyConstraint(
            "run_id",
            "optimizer",
            "kind",
            "bucket_steps",
            "attempt",
            "branch",
            "first_step",
            name="pk_summaries",
        ),
        postgresql_partition_by="HASH (run_id)",
    )
    create_partitions("summaries")
