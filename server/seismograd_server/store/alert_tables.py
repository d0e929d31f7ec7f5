"""The tables of alerts and of what people do to them; part of `schema.py`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from seismograd_server.store.metadata import metadata, row_number

alerts = Table(
    "alerts",
    metadata,
    row_number("alert_row"),
    Column("alert_id", Text, nullable=False, unique=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("signature", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("severity", SmallInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("since_step", BigInteger, nullable=False),
    Column("opened_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("resolved_at", Double),
    Column("resolution", Text),
    Column("evidence_json", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("acknowledged_by", Text, nullable=False),
    Column("acknowledged_at", Double),
    Column("inhibited_by", Text, nullable=False),  # model.Alert.inhibited_by
    Column("told", SmallInteger, nullable=False, server_default=text("0")),
    Column("silenced_by", Text, nullable=False, server_default=text("''")),
    Column("verdict", Text, nullable=False, server_default=text("''")),  # "" = none
    UniqueConstraint("run_id", "signature", "scope", "opened_step"),
    Index("ix_alerts_state", "state"),
    sqlite_autoincrement=True,
)

# What makes a replay write nothing twice is the unique key: the same change of the same alert for the same cause.
alert_transitions = Table(
    "alert_transitions",
    metadata,
    Column("alert_row", ForeignKey("alerts.alert_row"), primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("before", Text),
    Column("state", Text, nullable=False),
    Column("severity", SmallInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("cause", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("notify", SmallInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence_json", Text, nullable=False),
    Column("author", Text, nullable=False, server_default=text("''")),  # "" = nobody
    Column("note", Text, nullable=False, server_default=text("''")),
    # With the time: a resumed run may live through the same transition at the same step once more.
    UniqueConstraint("alert_row", "step", "state", "severity", "cause", "at"),
)

# Not of a run: a silence may be there before the run is. Those that are over are kept, for whoever asks who was it.
silences = Table(
    "silences",
    metadata,
    row_number("silence_row"),
    Column("silence_id", Text, nullable=False, unique=True),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
    Column("project", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("ended_by", Text, nullable=False),
    sqlite_autoincrement=True,
)
