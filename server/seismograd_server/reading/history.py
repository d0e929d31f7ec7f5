"""The history of a run in plain arrays: what a report or a chart is made of. No I/O.

Shapes: n = closed steps, w = steps of a window, r = ranks, l = layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.model import (
    Alert,
    AskedDirective,
    Bool,
    Checkpoint,
    DetectorStatus,
    Float32,
    Float64,
    Health,
    Int64,
    Launch,
    Quantity,
    Rank,
    RankLayers,
    RecordFlag,
    Run,
    RunKey,
    Severity,
    Summary,
    UInt8,
    UInt16,
)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Closed steps of one optimizer as they stand: what a later attempt or branch overwrote is not in it.

    NaN means "not known" but for `loss`, which has a mask, and is never a gradient's NaN: those are counted in
    `nonfinite`, and `norm` is the norm of the finite part.
    """

    steps: Int64  # [n], rising
    times: Float64  # [n], Unix seconds
    attempts: Int64  # [n]
    norm: Float64  # [n], before clipping, after unscaling
    nonfinite: Int64  # [n, 3]: elements that are NaN, +Inf, -Inf
    flags: UInt16  # [n]
    sources: UInt8  # [n]
    loss: Float64  # [n]
    loss_known: Bool  # [n]
    learning_rate: Float64  # [n]
    loss_scale: Float64  # [n]
    clip_threshold: Float64  # [n]
    clip_coefficient: Float64  # [n]
    step_seconds: Float64  # [n]
    ranks_present: Int64  # [n], how many

    @property
    def count(self) -> int:
        """Number of steps, n."""
        return len(self.steps)

    @property
    def broken(self) -> Bool:
        """Steps with non-finite gradient elements that the loss scaler did not skip."""
        skipped = (self.flags & int(RecordFlag.SKIPPED_BY_SCALER)) != 0
        return np.asarray((self.nonfinite.sum(axis=1) > 0) & ~skipped, np.bool_)

    @property
    def skipped(self) -> Bool:
        """Steps that the loss scaler skipped: back-off, not an explosion."""
        return np.asarray((self.flags & int(RecordFlag.SKIPPED_BY_SCALER)) != 0, np.bool_)

    def row(self, step: int) -> int:
        """Index of the last row at or before a step; -1 when all are later."""
        return int(np.searchsorted(self.steps, step, side="right")) - 1


@dataclass(frozen=True, slots=True, eq=False)
class LayerWindow:
    """Composed per-layer numbers over a window of steps."""

    names: tuple[str, ...]
    module_types: tuple[str, ...]
    depths: tuple[int, ...]
    numels: tuple[int, ...]
    steps: Int64  # [w], rising
    norms: Float32  # [w, l]; NaN = not captured
    weight_norms: Float32  # [w, l]; NaN = not sampled
    update_norms: Float32  # [w, l]; NaN = not sampled
    sampled: Mapping[Quantity, Float32] = field(default_factory=dict)  # as in ClosedBlock, [w, l]
    rank_layers: tuple[RankLayers, ...] = ()  # as in ClosedBlock; rows are those of the window


@dataclass(frozen=True, slots=True, eq=False)
class WeightSamples:
    """Norms of the weights in the steps in which they were sampled: of a window, and of some hundred steps before."""

    names: tuple[str, ...]
    steps: Int64  # [k], rising
    norms: Float32  # [k, l]; NaN = this layer was not sampled


@dataclass(frozen=True, slots=True, eq=False)
class RankWindow:
    """Per-rank numbers over a window of steps."""

    steps: Int64  # [w], rising
    loss: Float64  # [w, r]
    loss_known: Bool  # [w, r]
    norm: Float64  # [w, r], local norm before the all-reduce; NaN = not sampled, Inf = overflow
    hostnames: tuple[str, ...] = ()  # by rank; empty = unknown


@dataclass(frozen=True, slots=True)
class NonfiniteHit:
    """Non-finite gradient elements of one layer in one step, as one rank reported them."""

    step: int
    layer: str  # empty = known for the total only
    rank: int
    nan_count: int
    positive_inf_count: int
    negative_inf_count: int


@dataclass(frozen=True, slots=True)
class Opening:
    """What an alert said when it opened: by now it tells of its worst moment."""

    severity: Severity
    reason: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the flight recorder of one rank has handed over, in a few numbers."""

    rank: int
    hostname: str
    first_step: int
    last_step: int
    steps: int
    largest: float  # norm of this rank's own gradients, their finite part; NaN = no row was captured
    largest_step: int
    layer: str  # with the largest norm at that step; "" = not known
    nonfinite_step: int | None  # the first step with anything that was not finite


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """All that is known of a run, read at one moment; of a long one `series` has not every step."""

    run: Run
    series: Series
    launches: tuple[Launch, ...] = ()
    ranks: tuple[Rank, ...] = ()  # of the latest launch
    layers: LayerWindow | None = None  # around the focus
    weights: WeightSamples | None = None  # around the focus and before
    rank_window: RankWindow | None = None  # around the focus
    nonfinite: tuple[NonfiniteHit, ...] = ()
    alerts: tuple[Alert, ...] = ()  # by opened_step
    openings: Mapping[str, Opening] = field(default_factory=dict)  # by alert_id
    checkpoints: tuple[Checkpoint, ...] = ()  # by step
    health: tuple[Health, ...] = ()
    statuses: tuple[DetectorStatus, ...] = ()  # empty unless the run is live
    directives: tuple[AskedDirective, ...] = ()  # newest first
    recorded: tuple[Recorded, ...] = ()  # by rank
    notes: Mapping[str, str] = field(default_factory=dict)  # what could not be read, by what
    damaged: tuple[tuple[int, int], ...] = ()  # ranges of steps of which something is damaged on disk
    whole: Summary | None = None  # buckets of all steps, when `series` has some of them only; see `condensed.py`
    removed: bool = False  # whether single steps have been removed since, and their summaries kept


def damage_sentence(key: RunKey, first_step: int, last_step: int) -> str:
    """What is said of a range of steps that cannot be read as it was stored."""
    which = f"Step {first_step:,}" if first_step == last_step else f"Steps {first_step:,} to {last_step:,}"
    verb = "is" if first_step == last_step else "are"
    return f"{which} of run {key} {verb} damaged on disk: what cannot be read is left out."


def empty_series() -> Series:
    """A run of which no step is closed yet."""
    nothing = np.zeros(0)
    whole = np.zeros(0, np.int64)
    return Series(
        steps=whole,
        times=nothing,
        attempts=whole,
        norm=nothing,
        nonfinite=np.zeros((0, 3), np.int64),
        flags=np.zeros(0, np.uint16),
        sources=np.zeros(0, np.uint8),
        loss=nothing,
        loss_known=np.zeros(0, np.bool_),
        learning_rate=nothing,
        loss_scale=nothing,
        clip_threshold=nothing,
        clip_coefficient=nothing,
        step_seconds=nothing,
        ranks_present=whole,
    )
