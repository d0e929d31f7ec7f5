"""A trace as closed blocks: what a server would have composed of the same run, had it been there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from seismograd_server.model import (
    Bool,
    ClosedBlock,
    Float32,
    Float64,
    Int64,
    Layout,
    NonfiniteLayer,
    NormSource,
    RankLayers,
    RecordFlag,
)
from seismograd_server.transfer.traces import Trace

Columns = Literal["norms", "norms+loss", "all"]
# About as many as a server closes at once of a job that is in no hurry; no length changes a finding.
_BLOCK_STEPS = 256


def blocks(
    trace: Trace, *, columns: Columns = "all", thin: int = 1, length: int = _BLOCK_STEPS
) -> Iterator[ClosedBlock]:
    """Cut a trace into closed blocks of `length` steps.

    Args:
        trace: the run.
        columns: what may be seen of it: gradient norms; also loss, learning rate and clipping; also sampled columns.
        thin: keep the sampled columns (weight, update and local norms) only every so many steps.
        length: steps a block.
    """
    whole = _whole(trace, columns, thin)
    for start in range(0, trace.count, length):
        yield slice_block(whole, start, min(start + length, trace.count))


def slice_block(block: ClosedBlock, start: int, stop: int) -> ClosedBlock:
    """Return steps `start` to `stop` of a block, as a block of its own."""
    arrays = {
        name: getattr(block, name)[start:stop]
        for name in ClosedBlock.__dataclass_fields__
        if isinstance(getattr(block, name), np.ndarray)
    }
    nonfinite = tuple(
        NonfiniteLayer(
            each.row - start,
            each.layer,
            each.rank,
            each.nan_count,
            each.positive_inf_count,
            each.negative_inf_count,
        )
        for each in block.nonfinite_layers
        if start <= each.row < stop
    )
    return ClosedBlock(
        layout=block.layout,
        attempt=block.attempt,
        branch=block.branch,
        nonfinite_layers=nonfinite,
        sampled={quantity: values[start:stop] for quantity, values in block.sampled.items()},
        rank_layers=tuple(_slice_rank(each, start, stop) for each in block.rank_layers),
        replica_gaps=tuple(
            type(each)(each.row - start, each.rank, each.gap) for each in block.replica_gaps if start <= each.row < stop
        ),
        **arrays,
    )


def _slice_rank(layers: RankLayers, start: int, stop: int) -> RankLayers:
    first, last = np.searchsorted(layers.rows, [start, stop])
    return RankLayers(layers.rank, layers.rows[first:last] - start, layers.norms[first:last])


def _whole(trace: Trace, columns: Columns, thin: int) -> ClosedBlock:
    count, ranks = trace.count, len(trace.local_norms)
    finite = np.isfinite(trace.layer_norms)
    norm = np.sqrt(np.square(np.where(finite, trace.layer_norms, 0.0)).sum(1))
    skipped = _skipped(trace)
    see_loss, see_samples = columns != "norms", columns == "all"
    sampled = np.arange(count) % thin == 0
    threshold = np.full(count, trace.clip_threshold if see_loss else np.nan)
    flags = skipped * int(RecordFlag.SKIPPED_BY_SCALER)
    flags |= trace.clipped * int(RecordFlag.CLIPPED) * see_loss
    with np.errstate(divide="ignore", invalid="ignore"):
        coefficient = np.minimum(1.0, threshold / norm)  # NaN where nothing clips
        local = np.sqrt(np.square(trace.local_norms).sum(2)).T
    rank_loss = trace.rank_loss.T if trace.rank_loss.size else trace.loss[:, None]
    return ClosedBlock(
        layout=_layout(trace),
        attempt=1,
        branch=0,
        steps=np.arange(count, dtype=np.int64),
        times=np.arange(count, dtype=np.float64),
        ranks_present=np.ones((count, ranks), dtype=np.bool_),
        global_norm=norm,
        layer_norms=np.where(finite, trace.layer_norms, np.nan).astype(np.float32),
        nonfinite=_counts(trace.layer_norms),
        nonfinite_layers=_nonfinite_layers(trace.layer_norms, ranks),
        inexact=np.zeros(count, dtype=np.bool_),
        sources=np.full(count, int(NormSource.IMPORT), dtype=np.uint8),
        flags=flags.astype(np.uint16),
        loss=trace.loss if see_loss else np.full(count, np.nan),
        loss_known=np.full(count, see_loss),
        rank_loss=np.broadcast_to(rank_loss, (count, ranks)) if see_loss else np.full((count, ranks), np.nan),
        rank_loss_known=np.full((count, ranks), see_loss),
        rank_norm=np.where(sampled[:, None], local, np.nan),
        learning_rate=trace.learning_rate if see_loss else np.full(count, np.nan),
        loss_scale=trace.loss_scale if trace.loss_scale.size and see_loss else np.full(count, np.nan),
        clip_threshold=threshold,
        clip_coefficient=coefficient,
        step_seconds=np.full(count, np.nan),
        weight_norms=_sampled(trace.weight_norms, sampled & see_samples),
        update_norms=_sampled(trace.update_norms, sampled & see_samples),
        rank_layers=_rank_layers(trace.local_norms, sampled) if ranks > 1 else (),
    )


def _layout(trace: Trace) -> Layout:
    layers = len(trace.layer_names)
    return Layout(
        world_size=len(trace.local_norms),
        names=trace.layer_names,
        module_types=("",) * layers,
        depths=tuple(range(layers)),
        numels=(1,) * layers,  # a trace does not tell
        dtypes=("float32",) * layers,
    )


def _skipped(trace: Trace) -> Bool:
    """Steps that the loss scaler refused: non-finite gradients, and no update in spite of a loss scale."""
    if not trace.loss_scale.size:
        return np.zeros(trace.count, dtype=np.bool_)
    broken = ~np.isfinite(trace.layer_norms).all(1)
    return np.asarray(broken & (np.nan_to_num(trace.update_norms) == 0.0).all(1))


def _sampled(values: Float64, keep: Bool) -> Float32:
    return np.where(keep[:, None], values, np.nan).astype(np.float32)


def _rank_layers(local_norms: Float64, sampled: Bool) -> tuple[RankLayers, ...]:
    rows: Int64 = np.flatnonzero(sampled).astype(np.int64)
    return tuple(RankLayers(rank, rows, own[rows].astype(np.float32)) for rank, own in enumerate(local_norms))


def _counts(norms: Float64) -> Int64:
    """A trace has no counts of elements: a tensor that is not finite counts as one element."""
    kinds = (np.isnan(norms), np.isposinf(norms), np.isneginf(norms))
    return np.stack([each.sum(1) for each in kinds], axis=1).astype(np.int64)


def _nonfinite_layers(norms: Float64, ranks: int) -> tuple[NonfiniteLayer, ...]:
    """After averaging, every rank holds the same non-finite values."""
    rows, layers = np.nonzero(~np.isfinite(norms))
    return tuple(
        NonfiniteLayer(row, layer, rank, int(np.isnan(norms[row, layer])), int(np.isposinf(norms[row, layer])), 0)
        for row, layer in zip(rows.tolist(), layers.tolist(), strict=True)
        for rank in range(ranks)
    )
