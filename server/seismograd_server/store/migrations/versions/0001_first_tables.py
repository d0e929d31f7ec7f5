"""The first tables.

A migration is history: it is never changed again, and so repeats what `schema.py` says today.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from seismograd_server.store.migrations.partitions import create_partitions, primary_key

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only where the type is spelled INTEGER.
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# A uint32 of the wire: PostgreSQL's INTEGER has a sign.
_UNSIGNED = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    """Create every table; the one row of `server_epoch` is there from the beginning."""
    _runs()
    _declarations()
    _records()
    _closed_steps()
    _alerts()
    op.execute("INSERT INTO server_epoch (row, epoch, owner) VALUES (1, 0, '')")


def _texts(*names: str) -> list[sa.Column[str]]:
    """Columns of text that is always there; "" = nothing was said."""
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _runs() -> None:
    op.create_table(
        "server_epoch",
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.CheckConstraint("row = 1", name="ck_server_epoch_one_row"),
        sa.PrimaryKeyConstraint("row", name="pk_server_epoch"),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", _NUMBER, sa.Identity(), nullable=False),
        *_texts("project", "run", "state"),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("last_record_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        *_texts("failure_reason", "config_json", "tags_json", "framework", "strategy"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("world_size", sa.Integer(), nullable=False),
        sa.Column("last_step", sa.BigInteger()),
        sa.Column("closed_steps", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
        sa.UniqueConstraint("project", "run", name="uq_runs_project_run"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_state", "runs", ["state"])
    op.create_table(
        "launches",
        sa.Column("launch_row", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("launch_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("world_size", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double()),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_launches_run_id"),
        sa.PrimaryKeyConstraint("launch_row", name="pk_launches"),
        sa.UniqueConstraint("launch_id", name="uq_launches_launch_id"),
        sa.UniqueConstraint("run_id", "attempt", name="uq_launches_run_id_attempt"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "optimizers",
        sa.Column("launch_row", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("class_name", sa.Text(), nullable=False),
        sa.Column("hyperparameters_json", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["launch_row"], ["launches.launch_row"], name="fk_optimizers_launch_row"),
        sa.PrimaryKeyConstraint("launch_row", "optimizer", name="pk_optimizers"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ranks",
        sa.Column("handle", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("launch_row", _NUMBER, nullable=False),
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("process_id", sa.BigInteger(), nullable=False),
        sa.Column("local_rank", _UNSIGNED, nullable=False),
        *_texts("device_type", "device_name", "device_uuid", "driver_version", "client_version", "python_version"),
        sa.Column("clock_skew_seconds", sa.Double(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("last_seen_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["launch_row"], ["launches.launch_row"], name="fk_ranks_launch_row"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_ranks_run_id"),
        sa.PrimaryKeyConstraint("handle", name="pk_ranks"),
        sa.UniqueConstraint("launch_row", "rank", name="uq_ranks_launch_row_rank"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_ranks_run_id", "ranks", ["run_id"])


def _declarations() -> None:
    op.create_table(
        "catalogs",
        sa.Column("catalog_row", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_catalogs_run_id"),
        sa.PrimaryKeyConstraint("catalog_row", name="pk_catalogs"),
        sa.UniqueConstraint("run_id", "digest", name="uq_catalogs_run_id_digest"),
    )
    op.create_table(
        "catalog_uses",
        sa.Column("rank_handle", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("catalog_row", _NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["catalog_row"], ["catalogs.catalog_row"], name="fk_catalog_uses_catalog_row"),
        sa.ForeignKeyConstraint(["rank_handle"], ["ranks.handle"], name="fk_catalog_uses_rank_handle"),
        sa.PrimaryKeyConstraint("rank_handle", "optimizer", "version", name="pk_catalog_uses"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_catalog_uses_catalog_row", "catalog_uses", ["catalog_row"])
    op.create_table(
        "checkpoints",
        sa.Column("checkpoint_row", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("rank_handle", _NUMBER, nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("saved_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["rank_handle"], ["ranks.handle"], name="fk_checkpoints_rank_handle"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_checkpoints_run_id"),
        sa.PrimaryKeyConstraint("checkpoint_row", name="pk_checkpoints"),
        sa.UniqueConstraint("rank_handle", "step", "path", name="uq_checkpoints_rank_handle_step_path"),
    )
    op.create_index("ix_checkpoints_run_id", "checkpoints", ["run_id"])
    op.create_table(
        "health",
        sa.Column("rank_handle", _NUMBER, nullable=False),
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("dropped_json", sa.Text(), nullable=False),
        sa.Column("queued_bytes", sa.BigInteger(), nullable=False),
        sa.Column("spool_bytes", sa.BigInteger(), nullable=False),
        sa.Column("hook_seconds", sa.Double(), nullable=False),
        sa.Column("hook_calls", sa.BigInteger(), nullable=False),
        sa.Column("capture_share", sa.Double(), nullable=False),
        sa.Column("clock_skew_seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["rank_handle"], ["ranks.handle"], name="fk_health_rank_handle"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_health_run_id"),
        sa.PrimaryKeyConstraint("rank_handle", name="pk_health"),
    )
    op.create_index("ix_health_run_id", "health", ["run_id"])


def _records() -> None:
    op.create_table(
        "streams",
        sa.Column("rank_handle", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("launch_row", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["rank_handle"], ["ranks.handle"], name="fk_streams_rank_handle"),
        sa.PrimaryKeyConstraint("rank_handle", "optimizer", "kind", name="pk_streams"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "drops",
        sa.Column("drop_row", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("rank_handle", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rank_handle"], ["ranks.handle"], name="fk_drops_rank_handle"),
        sa.PrimaryKeyConstraint("drop_row", name="pk_drops"),
    )
    op.create_index("ix_drops_rank_handle", "drops", ["rank_handle"])
    op.create_table(
        "segments",
        sa.Column("segment_id", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("launch_row", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("rank_handle", sa.BigInteger(), nullable=False),
        sa.Column("branch", _UNSIGNED, nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("encoding", sa.SmallInteger(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["launch_row"], ["launches.launch_row"], name="fk_segments_launch_row"),
        sa.PrimaryKeyConstraint(*primary_key("segment_id", by="launch_row"), name="pk_segments"),
        sqlite_autoincrement=True,
        postgresql_partition_by="HASH (launch_row)",
    )
    create_partitions("segments")
    op.create_index(
        "ix_segments_read", "segments", ["launch_row", "optimizer", "kind", "segment_id", "first_step", "last_step"]
    )


def _closed_steps() -> None:
    op.create_table(
        "closed_blocks",
        sa.Column("ordinal", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("launch_row", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("branch", _UNSIGNED, nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["launch_row"], ["launches.launch_row"], name="fk_closed_blocks_launch_row"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_closed_blocks_run_id"),
        sa.PrimaryKeyConstraint(*primary_key("ordinal", by="run_id"), name="pk_closed_blocks"),
        sqlite_autoincrement=True,
        postgresql_partition_by="HASH (run_id)",
    )
    create_partitions("closed_blocks")
    op.create_index("ix_closed_blocks_launch", "closed_blocks", ["launch_row", "optimizer", "ordinal"])
    op.create_index(
        "ix_closed_blocks_run",
        "closed_blocks",
        ["run_id", "optimizer", "ordinal", "attempt", "branch", "first_step", "last_step"],
    )
    op.create_table(
        "detector_states",
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("optimizer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("saved_at", sa.Double(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_detector_states_run_id"),
        sa.PrimaryKeyConstraint("run_id", "optimizer", name="pk_detector_states"),
    )


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("alert_row", _NUMBER, sa.Identity(), nullable=False),
        sa.Column("alert_id", sa.Text(), nullable=False),
        sa.Column("run_id", _NUMBER, nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("severity", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since_step", sa.BigInteger(), nullable=False),
        sa.Column("opened_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("resolved_at", sa.Double()),
        sa.Column("resolution", sa.Text()),
        *_texts("evidence_json", "reason", "fingerprint", "acknowledged_by"),
        sa.Column("acknowledged_at", sa.Double()),
        sa.Column("inhibited_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_alerts_run_id"),
        sa.PrimaryKeyConstraint("alert_row", name="pk_alerts"),
        sa.UniqueConstraint("alert_id", name="uq_alerts_alert_id"),
        sa.UniqueConstraint(
            "run_id", "signature", "scope", "opened_step", name="uq_alerts_run_id_signature_scope_opened_step"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alerts_state", "alerts", ["state"])
    op.create_table(
        "alert_transitions",
        sa.Column("alert_row", _NUMBER, nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("before", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("severity", sa.SmallInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("notify", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence_json", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["alert_row"], ["alerts.alert_row"], name="fk_alert_transitions_alert_row"),
        sa.PrimaryKeyConstraint("alert_row", "ordinal", name="pk_alert_transitions"),
        sa.UniqueConstraint(
            "alert_row",
            "step",
            "state",
            "severity",
            "cause",
            "at",
            name="uq_alert_transitions_alert_row_step_state_severity_cause_at",
        ),
    )
    op.create_table(
        "outbox",
        sa.Column("entry_id", _NUMBER, sa.Identity(), nullable=False),
        *_texts("dedupe_key", "target", "alert_id"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.Double()),
        sa.Column("delivered", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("entry_id", name="pk_outbox"),
        sa.UniqueConstraint("dedupe_key", name="uq_outbox_dedupe_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_alert_id", "outbox", ["alert_id"])
    op.create_index("ix_outbox_due_at", "outbox", ["due_at"])
