"""The tables as the newest migration leaves them; a test holds the two together.

    runs -> launches -> ranks -> streams (received intervals), drops, checkpoints, health, catalog_uses -> catalogs
            launches -> segments (the payload), optimizers
    runs -> closed_blocks (the closing events), detector_states, outbox
    runs -> alerts -> alert_transitions; silences: in `alert_tables.py`
    runs -> directives -> directive_addressees: in `directive_tables.py`
    runs -> summary_lines, summaries: in `summary_tables.py`

Every row belongs to one run, so that deleting a run is a handful of statements. Times are Unix seconds.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from seismograd_server.store.metadata import Unsigned32, metadata, row_number

# One row. The epoch grows with every server that opens the database; a server whose epoch is not the stored one has
# been replaced and must not write.
server_epoch = Table(
    "server_epoch",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    CheckConstraint("row = 1", name="one_row"),
)

runs = Table(
    "runs",
    metadata,
    row_number("run_id"),
    Column("project", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("last_record_at", Double),
    Column("ended_at", Double),
    Column("failure_reason", Text, nullable=False),
    Column("config_json", Text, nullable=False),
    Column("tags_json", Text, nullable=False),
    Column("framework", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("world_size", Integer, nullable=False),
    Column("last_step", BigInteger),
    Column("closed_steps", BigInteger, nullable=False),
    UniqueConstraint("project", "run"),
    Index("ix_runs_state", "state"),
    sqlite_autoincrement=True,  # an id is never given twice: a client may hold one of a deleted run
)

launches = Table(
    "launches",
    metadata,
    row_number("launch_row"),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("launch_id", Text, nullable=False, unique=True),
    Column("attempt", Integer, nullable=False),
    Column("world_size", Integer, nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("ended_at", Double),
    UniqueConstraint("run_id", "attempt"),
    sqlite_autoincrement=True,
)

optimizers = Table(
    "optimizers",
    metadata,
    Column("launch_row", ForeignKey("launches.launch_row"), primary_key=True),
    Column("optimizer", Integer, primary_key=True, autoincrement=False),
    Column("class_name", Text, nullable=False),
    Column("hyperparameters_json", Text, nullable=False),
    sqlite_with_rowid=False,
)

ranks = Table(
    "ranks",
    metadata,
    row_number("handle"),
    Column("launch_row", ForeignKey("launches.launch_row"), nullable=False),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("rank", Integer, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("process_id", BigInteger, nullable=False),
    Column("local_rank", Unsigned32, nullable=False),
    Column("device_type", Text, nullable=False),
    Column("device_name", Text, nullable=False),
    Column("device_uuid", Text, nullable=False),
    Column("driver_version", Text, nullable=False),
    Column("client_version", Text, nullable=False),
    Column("python_version", Text, nullable=False),
    Column("clock_skew_seconds", Double, nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("last_seen_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column(
        "capabilities", Text, nullable=False, server_default=text("''")
    ),  # what its client understands, with blanks between
    Column("host_facts", Text, nullable=False, server_default=text("''")),  # a JSON object, or nothing
    UniqueConstraint("launch_row", "rank"),
    sqlite_autoincrement=True,
)

# Ranks of one run mostly declare the same parameters: the content is stored once per run.
catalogs = Table(
    "catalogs",
    metadata,
    row_number("catalog_row"),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    UniqueConstraint("run_id", "digest"),
)

catalog_uses = Table(
    "catalog_uses",
    metadata,
    Column("rank_handle", ForeignKey("ranks.handle"), primary_key=True),
    Column("optimizer", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("catalog_row", ForeignKey("catalogs.catalog_row"), nullable=False, index=True),
    sqlite_with_rowid=False,
)

# The idempotency key of ingest; untouched by whatever happens to the segments.
streams = Table(
    "streams",
    metadata,
    Column("rank_handle", ForeignKey("ranks.handle"), primary_key=True),
    Column("optimizer", Integer, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("launch_row", BigInteger, nullable=False),
    Column("received", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

drops = Table(
    "drops",
    metadata,
    row_number("drop_row"),
    Column("rank_handle", ForeignKey("ranks.handle"), nullable=False, index=True),
    Column("optimizer", Integer, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

# No foreign key to ranks: it would cost an index on the largest table, only to delete by it.
segments = Table(
    "segments",
    metadata,
    row_number("segment_id"),
    Column("launch_row", ForeignKey("launches.launch_row"), nullable=False),
    Column("optimizer", Integer, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("rank_handle", BigInteger, nullable=False),
    Column("branch", Unsigned32, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("records", Integer, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("encoding", SmallInteger, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),  # last: the small columns are read without its overflow pages
    # Whether compaction is done with its norms: rounded, but for the steps around alerts. Behind the payload, and yet
    # read without it, because SQLite keeps 0 and 1 in the head of a row.
    Column("settled", SmallInteger, nullable=False, server_default=text("0")),
    # Steps are in the index so that a window of a long run skips what it does not need.
    Index("ix_segments_read", "launch_row", "optimizer", "kind", "segment_id", "first_step", "last_step"),
    sqlite_autoincrement=True,  # readers continue behind the last id that they saw
)

closed_blocks = Table(
    "closed_blocks",
    metadata,
    row_number("ordinal"),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("launch_row", ForeignKey("launches.launch_row"), nullable=False),
    Column("optimizer", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("branch", Unsigned32, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("dense", SmallInteger, nullable=False, server_default=text("0")),  # how the payload is encoded
    Index("ix_closed_blocks_run", "run_id", "optimizer", "ordinal", "attempt", "branch", "first_step", "last_step"),
    Index("ix_closed_blocks_launch", "launch_row", "optimizer", "ordinal"),
    sqlite_autoincrement=True,  # ordinals rise for ever
)

detector_states = Table(
    "detector_states",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("optimizer", Integer, primary_key=True, autoincrement=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("saved_at", Double, nullable=False),
    Column("state", LargeBinary, nullable=False),
    # What the state says of itself, so that compaction need not understand it: a restart reads launches from this
    # attempt on, of this one the segments behind `segment`, and closed blocks behind `ordinal`. 0 = everything.
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("segment", BigInteger, nullable=False, server_default=text("0")),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    row_number("checkpoint_row"),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("rank_handle", ForeignKey("ranks.handle"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("saved_at", Double, nullable=False),
    UniqueConstraint("rank_handle", "step", "path"),
)

health = Table(
    "health",
    metadata,
    Column("rank_handle", ForeignKey("ranks.handle"), primary_key=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("dropped_json", Text, nullable=False),
    Column("queued_bytes", BigInteger, nullable=False),
    Column("spool_bytes", BigInteger, nullable=False),
    Column("hook_seconds", Double, nullable=False),
    Column("hook_calls", BigInteger, nullable=False),
    Column("capture_share", Double, nullable=False),
    Column("clock_skew_seconds", Double, nullable=False),
)

# `alert_id` without a foreign key: a notification that tests a target belongs to no alert.
outbox = Table(
    "outbox",
    metadata,
    row_number("entry_id"),
    Column("dedupe_key", Text, nullable=False, unique=True),
    Column("target", Text, nullable=False),
    Column("alert_id", Text, nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double),  # absent = done
    Column("attempts", Integer, nullable=False),
    Column("payload", Text, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("finished_at", Double),
    Column("delivered", SmallInteger, nullable=False),
    Index("ix_outbox_due_at", "due_at"),
    sqlite_autoincrement=True,
)
