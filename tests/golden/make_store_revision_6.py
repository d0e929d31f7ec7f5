"""Writes the golden database of schema revision 6: `python -m tests.golden.make_store_revision_6`.

Run it only with a program whose newest migration is 0006. It is the database of revision 5 with another run, which was
compacted: densely encoded records, some rounded and some exact, and densely encoded closed steps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seismograd_server.model import (
    ClosedBlock,
    Float32,
    Layout,
    Nonfinite,
    Quantity,
    RankIdentity,
    RecordKind,
    ReplicaGap,
    RunKey,
    ScalarColumn,
    StepBatch,
    TensorColumn,
)
from seismograd_server.store.blocks import encode_block
from seismograd_server.store.codec import encode_dense, slice_batch
from seismograd_server.store.database import Transaction
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.merging import merge
from tests.golden.store_file import make

SOURCE = Path(__file__).with_name("store_revision_5.sqlite")
TARGET = Path(__file__).with_name("store_revision_6.sqlite")
STEPS = 300


def norms() -> Float32:
    """float32[300, 4] that no library's random numbers decide, with what is no ordinary number among them."""
    rows = np.arange(STEPS)[:, None] * np.array([7, 11, 13, 17]) % 101
    values: Float32 = (1.0 + rows / 101.0).astype(np.float32)
    values[5] = [np.nan, np.inf, -0.0, 1e-45]
    return values


def batch(handle: int) -> StepBatch:
    """All records of the run."""
    some, counts = np.array([0, 299], np.uint32), np.array([3], np.uint64)
    return StepBatch(
        rank_handle=handle,
        optimizer=0,
        kind=RecordKind.STEP,
        branch=0,
        first_sequence=0,
        catalog_version=0,
        steps=np.arange(STEPS),
        times=1_700_000_030.0 + np.arange(STEPS) / 8,
        sources=np.ones(STEPS, np.uint8),
        flags=np.zeros(STEPS, np.uint16),
        gradient_norms=norms(),
        total_norms=None,
        digests=None,
        nonfinite=Nonfinite(np.array([5], np.uint32), np.array([1], np.uint32), counts, counts + 1, counts + 2),
        scalars={Quantity.LOSS: ScalarColumn(some, np.array([2.5, np.nan]))},
        tensors={Quantity.UPDATE_NORM: TensorColumn(some, some[:1], np.array([[0.25], [0.5]], np.float32))},
        data_ids={2: "shard-é"},
    )


def block() -> ClosedBlock:
    """The closed steps of the run."""
    unknown = np.full(STEPS, np.nan)
    return ClosedBlock(
        layout=Layout(1, ("a",), ("Linear",), (0,), (1,), ("float32",)),
        attempt=1,
        branch=0,
        steps=np.arange(STEPS),
        times=1_700_000_030.0 + np.arange(STEPS) / 8,
        ranks_present=np.ones((STEPS, 1), np.bool_),
        global_norm=np.arange(STEPS) / 8,
        layer_norms=np.ones((STEPS, 1), np.float32),
        nonfinite=np.zeros((STEPS, 3), np.int64),
        nonfinite_layers=(),
        inexact=np.zeros(STEPS, np.bool_),
        sources=np.ones(STEPS, np.uint8),
        flags=np.zeros(STEPS, np.uint16),
        loss=np.where(np.arange(STEPS) == 0, 2.5, np.nan),
        loss_known=np.arange(STEPS) == 0,
        rank_loss=np.where(np.arange(STEPS) == 0, 2.5, np.nan)[:, None],
        rank_loss_known=(np.arange(STEPS) == 0)[:, None],
        rank_norm=unknown[:, None],
        learning_rate=unknown,
        loss_scale=unknown,
        clip_threshold=unknown,
        clip_coefficient=unknown,
        step_seconds=unknown,
        weight_norms=np.full((STEPS, 1), np.nan, np.float32),
        update_norms=np.full((STEPS, 1), np.nan, np.float32),
        replica_gaps=(ReplicaGap(7, 0, 0.5),),
    )


def fill(transaction: Transaction) -> None:
    """Another run, compacted: exact from step 100 to 199, rounded before and after."""
    identity = RankIdentity(RunKey("mt", "dense"), "launch-3", rank=0, world_size=1, session_id="session-3")
    opened = transaction.runs.open_rank(identity, now=1_700_000_030.0)
    whole = batch(opened.rank.handle)
    parts = [slice_batch(whole, first, first + 50) for first in range(0, STEPS, 50)]
    transaction.segments.append(parts, received_at=1_700_000_040.0)
    newest = transaction.segments.last_id()
    merged = merge(parts, 12, [(100, 199)])
    sources = list(range(newest - len(parts) + 1, newest + 1))
    assert transaction.compaction.replace_segments(sources, merged, encode_dense(merged), settled=True)
    run_id, launch_row = opened.run.run_id, opened.launch.launch_row
    ordinal = transaction.steps.append(run_id, launch_row, 0, block())
    chunk = transaction.compaction.read_block(ordinal)
    assert chunk is not None
    payload = encode_block(chunk, dense=True)
    assert transaction.compaction.replace_blocks([ordinal], run_id, 0, chunk, payload)
    saved = DetectorCheckpoint(run_id, 0, ordinal, b"state", attempt=1, segment=newest)
    transaction.detectors.save_all([saved], 1_700_000_041.0)


if __name__ == "__main__":
    make(TARGET, fill, SOURCE)
