"""The tables of what jobs were asked for; part of `schema.py`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, SmallInteger, Table, Text

from seismograd_server.store.metadata import metadata, row_number

# `alert_id` without a foreign key: it is empty where a person asked.
directives = Table(
    "directives",
    metadata,
    row_number("directive_row"),
    Column("directive_id", Text, nullable=False, unique=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("kind", SmallInteger, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("alert_id", Text, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

directive_addressees = Table(
    "directive_addressees",
    metadata,
    Column("directive_row", ForeignKey("directives.directive_row"), primary_key=True),
    Column("rank_handle", ForeignKey("ranks.handle"), primary_key=True, index=True),
    Column("sent_at", Double),
    Column("outcome", Text, nullable=False),  # "" = no answer yet
    Column("reason", Text, nullable=False),
    Column("step", BigInteger),
    Column("by_another_rank", SmallInteger, nullable=False),
    Column("answered_at", Double),
    sqlite_with_rowid=False,
)
