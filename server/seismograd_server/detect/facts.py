"""One closed step as the detectors see it: plain numbers cut from a block, with nothing derived from other steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seismograd_server.detect.ranks import Spread, loss_spreads, norm_spreads
from seismograd_server.model import Bool, ClosedBlock, Float32, Float64, NonfiniteLayer, RecordFlag

UNKNOWN = math.nan
# As plain numbers: an enum takes a microsecond for every `&`, and this is done for every step.
_SKIPPED_BY_SCALER = int(RecordFlag.SKIPPED_BY_SCALER)
_SKIPPED_BY_USER = int(RecordFlag.SKIPPED_BY_USER)


def octaves(value: float) -> float:
    """log2 of a positive number; NaN = zero, negative or not known."""
    return math.log2(value) if value > 0.0 else UNKNOWN


def from_octaves(value: float) -> float:
    """2 to a power; Inf where that is beyond double precision, NaN stays NaN."""
    return math.inf if value >= 1024.0 else 2.0**value


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
    learning_rate: float
    ratio: float  # log2 of the whole model's update norm over its weight norm; unknown when not sampled
    update_level: float  # log2 of the update norm; unknown when not sampled
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
    rates = block.learning_rate.tolist()
    ratios, updates = (each.tolist() for each in update_ratios(block))
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
            level=octaves(norm) if norm < math.inf else UNKNOWN,
            loss=losses[row],
            loss_known=known[row],
            nan_count=nan_count,
            inf_count=positive + negative + infinite,
            skipped_by_scaler=bool(flags[row] & _SKIPPED_BY_SCALER),
            skipped_by_user=bool(flags[row] & _SKIPPED_BY_USER),
            clip_coefficient=clips[row],
            learning_rate=rates[row],
            ratio=ratios[row],
            update_level=updates[row],
            rank_norms=rank_norms[row],
            rank_losses=rank_losses[row],
        )


def update_ratios(block: ClosedBlock) -> tuple[Float64, Float64]:
    """Two float64[n]: log2 of the whole model's update over weight norm, and of its update norm; NaN = not sampled.

    Layers that were not sampled count in neither. Rows are summed one by one in memory order, so that the way a stream
    was cut cannot change the last bit.
    """
    ratios, levels = np.full(block.count, np.nan), np.full(block.count, np.nan)
    both = ~(np.isnan(block.update_norms) | np.isnan(block.weight_norms))
    sampled = both.any(axis=1)
    if not sampled.any():
        return ratios, levels
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        update = _total(block.update_norms[sampled], both[sampled])
        levels[sampled] = np.log2(update)
        weight = _total(block.weight_norms[sampled], both[sampled])
        ratios[sampled] = np.log2(update / np.where(weight > 0.0, weight, np.nan))
    return ratios, levels


def _total(norms: Float32, known: Bool) -> Float64:
    squares = np.square(np.where(known, norms, 0.0).astype(np.float64))
    total: Float64 = np.sqrt(np.ascontiguousarray(squares).sum(axis=1))
    return total
