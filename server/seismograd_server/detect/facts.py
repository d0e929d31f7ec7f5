"""Closed steps as the detectors see them: plain numbers cut from a block, with nothing derived from other steps.

Blocks are short, and to call numpy costs as much as some hundred numbers: `facts_of` cuts up many blocks at once, of
whatever runs. The facts of each are what they would be if it were alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seismograd_server.detect.columns import Columns
from seismograd_server.detect.ranks import Spread
from seismograd_server.model import (
    ClosedBlock,
    Float32,
    NonfiniteLayer,
    RecordFlag,
)

UNKNOWN = math.nan
# As plain numbers: an enum takes a microsecond for every `&`, and this is done for every step.
_SKIPPED_BY_SCALER = int(RecordFlag.SKIPPED_BY_SCALER)
_SKIPPED_BY_USER = int(RecordFlag.SKIPPED_BY_USER)


def octaves(value: float) -> float:
    """log2 of a positive number; NaN = zero, negative or not known. Not for what columns hold: see `numpy_octaves`."""
    return math.log2(value) if value > 0.0 else UNKNOWN


def numpy_octaves(value: float) -> float:
    """log2 of a positive number, to the last bit what numpy says of many at once: `math.log2` may differ in that."""
    return float(np.log2(value))


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


class Facts:
    """The facts of a block, cut from the columns of many. `step` gathers one step's, as plain numbers."""

    __slots__ = (
        "all_present",
        "block",
        "columns",
        "count",
        "least_norm",
        "level_column",
        "levels",
        "longest_pause",
        "losses",
        "sampled",
        "start",
        "steps",
        "stop",
        "times",
    )

    def __init__(self, block: ClosedBlock, columns: Columns | None = None, number: int = 0) -> None:
        """Those of the block with this number among those of the columns."""
        self.block, self.count = block, block.count
        self.columns = columns = columns or Columns([block])
        self.start, self.stop = columns.starts[number], columns.starts[number + 1]
        self.steps = columns.steps[self.start : self.stop]
        self.times = columns.times[self.start : self.stop]
        self.levels = columns.levels[self.start : self.stop]
        self.losses = columns.losses[self.start : self.stop]
        self.level_column = columns.level_column[self.start : self.stop]
        # Seconds between two steps, at most; NaN = look, because some time is not finite.
        self.longest_pause = columns.longest_pauses[number]
        self.all_present = columns.all_present[number]  # whether no rank is missing in any step
        self.least_norm = columns.least_norms[number]  # of any layer at any step; NaN = some is not known
        self.sampled = _between(columns.sampled, self.start, self.stop)  # rows of known ratio; -Inf = no update at all

    @property
    def knows_scales(self) -> bool:
        """Whether a loss scale is known at any step."""
        return bool(self.columns.of_scale) and bool(_between(self.columns.of_scale, self.start, self.stop))

    def knows_clipping(self, start: int, stop: int) -> bool:
        """Whether it is known of any step from `start` to `stop` how it was clipped."""
        return not np.isnan(self.columns.clips[self.start + start : self.start + stop]).all()

    def clipped(self, start: int, stop: int) -> int:
        """How many steps from `start` to `stop` were clipped."""
        sums = self.columns.clipped
        return int(sums[self.start + stop] - sums[self.start + start])

    @property
    def of_ranks(self) -> list[int]:
        """Rows at which something is known of how the ranks lie."""
        return _between(self.columns.of_ranks, self.start, self.stop)

    def spreads(self, row: int) -> tuple[Spread | None, Spread | None]:
        """How the ranks' local norms lie at a step, and their losses; None = unknown."""
        return self.columns.rank_norms[self.start + row], self.columns.rank_losses[self.start + row]

    def sound_until(self, row: int) -> int:
        """The first row from this one on that is not sound (see `Columns.unsound`); the end if there is none."""
        unsound = self.columns.unsound
        if not unsound:  # nearly always
            return self.count
        place = bisect_left(unsound, self.start + row)
        return min(self.count, unsound[place] - self.start) if place < len(unsound) else self.count

    def rows_of_loss(self, start: int, stop: int) -> Sequence[int]:
        """Rows from `start` to `stop` whose loss is known."""
        rows, first = self.columns.of_loss, self.start
        if len(rows) == self.columns.starts[-1]:  # all losses are known
            return range(start, stop)
        return [row - first for row in rows[bisect_left(rows, first + start) : bisect_left(rows, first + stop)]]

    def step(self, row: int) -> Step:
        """The facts of one step."""
        columns, at = self.columns, self.start + row
        norm, flags = columns.norms.item(at), columns.flags.item(at)
        nan_count, positive, negative = (0, 0, 0) if columns.all_finite else self.block.nonfinite[row].tolist()
        infinite = norm == math.inf  # a norm that overflowed although no element did
        return Step(
            block=self.block,
            row=row,
            step=columns.steps.item(at),
            norm=norm,
            level=columns.levels[at],
            loss=columns.losses.item(at),
            loss_known=columns.loss_known.item(at),
            nan_count=nan_count,
            inf_count=positive + negative + infinite,
            skipped_by_scaler=bool(flags & _SKIPPED_BY_SCALER),
            skipped_by_user=bool(flags & _SKIPPED_BY_USER),
            clip_coefficient=columns.clips.item(at),
            learning_rate=columns.rates.item(at),
            ratio=columns.ratios.item(at),
            update_level=columns.update_levels.item(at),
            rank_norms=columns.rank_norms[at],
            rank_losses=columns.rank_losses[at],
        )


def facts_of(blocks: Sequence[ClosedBlock]) -> list[Facts]:
    """The facts of some blocks, in order."""
    if not blocks:
        return []
    columns = Columns(blocks)
    return [Facts(block, columns, number) for number, block in enumerate(blocks)]


def _between(rows: list[int], start: int, stop: int) -> list[int]:
    """Those of some rising rows that lie from `start` to `stop`, counted from there."""
    return [row - start for row in rows[bisect_left(rows, start) : bisect_left(rows, stop)]] if rows else []
