"""Partitions on PostgreSQL, where the large tables are spread by a hash of what their rows belong to.

By the run (or its launch) and never by time: what is written, read, compacted and deleted belongs to one run, so that
a statement touches one partition, whose indexes stay shallow and whose vacuum stays short.
"""

from __future__ import annotations

from alembic import op

# Enough that a terabyte comes in parts of a usual size; few enough that a statement that must look into each (the
# newest segment of all) stays cheap. Can only be changed by writing a table anew.
PARTITIONS = 16


def primary_key(column: str, by: str) -> tuple[str, ...]:
    """The columns of a partitioned table's key: PostgreSQL wants the one that it is spread `by` among them."""
    return (column, by) if op.get_bind().dialect.name == "postgresql" else (column,)


def create_partitions(table: str) -> None:
    """Make the partitions of a table that was made with `postgresql_partition_by="HASH (...)"`."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for number in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE {table}_p{number:02d} PARTITION OF {table} "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
