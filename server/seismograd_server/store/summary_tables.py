"""The tables of summaries: what of each line of steps is summarised, and the buckets, many to a row."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, SmallInteger, Table

from seismograd_server.store.metadata import Unsigned32, metadata

# From which step to which each line is summarised; written together with the buckets. It outlives the blocks that it
# was made from, and so knows where a line began when they are gone.
summary_lines = Table(
    "summary_lines",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("optimizer", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("branch", Unsigned32, primary_key=True, autoincrement=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
)

# One row: the buckets of one size in one aligned range of steps, as columns. The order of the key is that of reading.
summaries = Table(
    "summaries",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("optimizer", Integer, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("bucket_steps", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("branch", Unsigned32, primary_key=True, autoincrement=False),
    Column("first_step", BigInteger, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
)
