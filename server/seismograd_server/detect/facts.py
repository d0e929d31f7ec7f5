"""One closed step as the detectors see it: plain numbers cut from a block, with nothing derived from other steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seismograd_server.detect.ranks import Spread, loss_spreads, norm_spreads
from seismograd_server.model import ClosedBlock, Float32, Float64, NonfiniteLayer, RecordFlag

UNKNOWN = math.nan


@dataclass(slots=True)
class Step:
    """The facts of one closed step; NaN = not known, except that `loss` is data where `loss_known`."""

    block: ClosedBlock
    row: int
    step: int
    norm: float  # of the finite elements
    level: float  # log2 of the norm (octaves); unknown when the norm is zero or unknown
    loss: float
    loss_known: bool
    nan_count: int
    inf_count: int
    skipped_by_scaler: bool
    skipped_by_user: bool
    clip_coefficient: float
    ratio: float  # log2 of update norm over weight norm; unknown when not sampled
    rank_norms: Spread | None  # how the ranks' local norms lie; None = unknown
    rank_losses: Spread | None

    @property
    def broken(self) -> bool:
        """Whether a gradient or the loss is NaN or Inf."""
        return self.nan_count + self.inf_count > 0 or (self.loss_known and not math.isfinite(self.loss))

    @property
    def skipped(self) -> bool:
        """Whether the optimizer did not move the weights, on purpose."""
        return self.skipped_by_scaler or self.skipped_by_user

    @property
    def layer_norms(self) -> Float32:
        """float32[l], finite part; NaN = not known."""
        row: Float32 = self.block.layer_norms[self.row]
        return row

    @property
    def nonfinite_layers(self) -> tuple[NonfiniteLayer, ...]:
        """What the ranks reported as not finite in this step."""
        return tuple(each for each in self.block.nonfinite_layers if each.row == self.row)


def steps_of(block: ClosedBlock) -> Iterator[Step]:
    """Cut a block into its steps, in order."""
    norms = block.global_norm.tolist()
    nonfinite = block.nonfinite.tolist()
    flags = block.flags.tolist()
    losses = block.loss.tolist()
    known = block.loss_known.tolist()
    clips = block.clip_coefficient.tolist()
    ratios = update_ratios(block).tolist()
    rank_norms, rank_losses = norm_spreads(block), loss_spreads(block)
    for row, step in enumerate(block.steps.tolist()):
        norm = norms[row]
        nan_count, positive, negative = nonfinite[row]
        infinite = norm == math.inf  # a norm that overflowed although no element did
        yield Step(
            block=block,
            row=row,
            step=step,
            norm=norm,
            level=math.log2(norm) if 0.0 < norm < math.inf else UNKNOWN,
            loss=losses[row],
            loss_known=known[row],
            nan_count=nan_count,
            inf_count=positive + negative + infinite,
            skipped_by_scaler=bool(flags[row] & RecordFlag.SKIPPED_BY_SCALER),
            skipped_by_user=bool(flags[row] & RecordFlag.SKIPPED_BY_USER),
            clip_coefficient=clips[row],
            ratio=ratios[row],
            rank_norms=rank_norms[row],
            rank_losses=rank_losses[row],
        )


def update_ratios(block: ClosedBlock) -> Float64:
    """Return float64[n]: log2 of the whole model's update norm over its weight norm; NaN where not sampled.

    Rows are summed one by one in memory order, so that the way a stream was cut cannot change the last bit.
    """
    ratios = np.full(block.count, np.nan)
    if not block.update_norms.size:
        return ratios
    sampled = ~np.isnan(block.update_norms[:, 0])
    if not sampled.any():
        return ratios
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        updates = np.square(np.ascontiguousarray(block.update_norms[sampled], dtype=np.float64))
        weights = np.square(np.ascontiguousarray(block.weight_norms[sampled], dtype=np.float64))
        both = ~(np.isnan(updates) | np.isnan(weights))
        ratios[sampled] = 0.5 * np.log2(np.where(both, updates, 0.0).sum(1) / np.where(both, weights, 0.0).sum(1))
    return ratios
