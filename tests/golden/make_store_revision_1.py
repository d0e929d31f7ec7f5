"""Writes the golden database of schema revision 1: `python -m tests.golden.make_store_revision_1`.

Run it only with a program whose newest migration is 0001; the file it makes is never made again, because it stands for
the databases that people have. `tests/server/store/test_golden_database.py` says what is in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seismograd_server.model import (
    Alert,
    AlertState,
    Catalog,
    Checkpoint,
    ClosedBlock,
    DroppedRange,
    Evidence,
    Health,
    Layout,
    Nonfinite,
    NonfiniteLayer,
    OptimizerInfo,
    Parameter,
    Quantity,
    RankIdentity,
    RecordKind,
    RunKey,
    ScalarColumn,
    Severity,
    Signature,
    StepBatch,
    StreamKey,
    TensorColumn,
    Transition,
)
from seismograd_server.store.database import Transaction
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.outbox import OutboxEntry
from seismograd_server.store.progress import Progress
from tests.golden.store_file import make

TARGET = Path(__file__).with_name("store_revision_1.sqlite")
KEY = RunKey("mt", "lstm")


def fill(transaction: Transaction) -> None:
    """One row of everything at least."""
    identity = RankIdentity(
        KEY,
        launch_id="launch-1",
        rank=0,
        world_size=2,
        session_id="session",
        framework="torch 2.13.0",
        hostname="node-1",
        process_id=4711,
        config_json='{"lr": 0.1}',
        tags={"team": "räum"},
        optimizers=(OptimizerInfo(0, "torch.optim.sgd.SGD", '{"lr": 0.1}'),),
    )
    opened = transaction.runs.open_rank(identity, now=1_700_000_000.0)
    handle, run_id, launch_row = opened.rank.handle, opened.run.run_id, opened.launch.launch_row
    parameters = (
        Parameter("rnn.weight_hh_l0", (8, 2), 16, 16, "float32", "LSTM", 0, replication=2),
        Parameter("head.weight", (2,), 2, 2, "float32", "Linear", 1),
    )
    transaction.runs.save_catalog(handle, Catalog(0, 0, parameters))
    transaction.runs.save_checkpoint(Checkpoint(handle, 1, "s3://bucket/1", 1_700_000_002.0))
    transaction.runs.save_health(Health(handle, {"queue_full": 2}, 10, 20, 0.5, 3, 0.001, -0.25))
    transaction.segments.append([_batch(handle)], received_at=1_700_000_001.0)
    transaction.segments.drop([DroppedRange(StreamKey(handle, 0, RecordKind.STEP), 3, 2, "queue_full")])
    ordinal = transaction.steps.append(run_id, launch_row, 0, _block())
    transaction.detectors.save_all([DetectorCheckpoint(run_id, 0, ordinal, b"state")], now=1_700_000_003.0)
    transaction.alerts.apply([_transition(run_id)])
    transaction.outbox.add([OutboxEntry(None, "pager", "alert-1", 1.0, 2.0, 0, "{}", "", "alert-1/0/pager")])
    transaction.runs.progress([Progress(run_id, last_step=2, closed_steps=3, last_record_at=1_700_000_001.0)])


def _batch(handle: int) -> StepBatch:
    one = np.array([1], np.uint32)
    return StepBatch(
        rank_handle=handle,
        optimizer=0,
        kind=RecordKind.STEP,
        branch=0,
        first_sequence=0,
        catalog_version=0,
        steps=np.arange(3),
        times=np.array([0.5, 1.5, 2.5]),
        sources=np.array([1, 2, 4], np.uint8),
        flags=np.array([4, 0, 1], np.uint16),
        gradient_norms=np.array([[1.5, -0.0], [np.inf, 1e-45], [np.nan, 3e38]], np.float32),
        total_norms=np.array([1.0, 2.0, 3.0]),
        digests=np.array([1, 2, 2**64 - 1], np.uint64),
        nonfinite=Nonfinite(one, one, *(np.array([count], np.uint64) for count in (7, 8, 9))),
        scalars={Quantity.LOSS: ScalarColumn(one, np.array([np.nan]))},
        tensors={Quantity.UPDATE_NORM: TensorColumn(one, one, np.array([[0.25]], np.float32))},
        data_ids={2: "shard-é"},
    )


def _block() -> ClosedBlock:
    unknown, unknown_ranks = np.full(3, np.nan), np.full((3, 2), np.nan)
    return ClosedBlock(
        layout=Layout(2, ("a",), ("Linear",), (0,), (1,), ("float32",)),
        attempt=1,
        branch=0,
        steps=np.arange(3),
        times=np.array([0.5, 1.5, 2.5]),
        ranks_present=np.array([[1, 0], [1, 1], [0, 1]], np.bool_),
        global_norm=np.array([1.0, np.inf, np.nan]),
        layer_norms=np.ones((3, 1), np.float32),
        nonfinite=np.array([[0, 0, 0], [7, 8, 9], [0, 0, 0]]),
        nonfinite_layers=(NonfiniteLayer(1, 0, 0, 7, 8, 9),),
        inexact=np.array([False, True, False]),
        sources=np.array([1, 2, 4], np.uint8),
        flags=np.array([4, 0, 1], np.uint16),
        loss=np.array([2.0, np.nan, 1.0]),
        loss_known=np.array([True, True, False]),
        rank_loss=unknown_ranks,
        rank_loss_known=np.zeros((3, 2), np.bool_),
        rank_norm=np.array([[np.nan, np.nan], [1.0, 2.0], [np.nan, np.nan]]),
        learning_rate=np.array([0.1, 0.1, 0.1]),
        loss_scale=unknown,
        clip_threshold=unknown,
        clip_coefficient=unknown,
        step_seconds=unknown,
        weight_norms=np.ones((3, 1), np.float32),
        update_norms=np.ones((3, 1), np.float32),
    )


def _transition(run_id: int) -> Transition:
    alert = Alert(
        alert_id="alert-1",
        run_id=run_id,
        key=KEY,
        signature=Signature.RUNAWAY,
        scope="layer:rnn",
        severity=Severity.CRITICAL,
        state=AlertState.FIRING,
        since_step=0,
        opened_step=1,
        last_step=1,
        opened_at=1.0,
        updated_at=1.0,
        resolved_at=None,
        resolution=None,
        evidence=Evidence(value=float("inf"), leading_rank=1, details={"slope": 0.5}),
        reason="the norm doubles every step",
        fingerprint="f1",
    )
    return Transition(alert, before=None, cause="opened", at=1.0, notify=True)


if __name__ == "__main__":
    make(TARGET, fill)
