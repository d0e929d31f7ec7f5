"""Closed steps: what detectors may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from seismograd_server.model.arrays import Bool, Float32, Float64, Int64, UInt8, UInt16
from seismograd_server.model.records import Quantity


@dataclass(frozen=True, slots=True)
class Layout:
    """The layers of one optimizer as the whole launch has them, composed from every rank's catalog."""

    world_size: int
    names: tuple[str, ...]
    module_types: tuple[str, ...]
    depths: tuple[int, ...]  # forward order, 0 = nearest the input; -1 = unknown
    numels: tuple[int, ...]
    dtypes: tuple[str, ...]
    hostnames: tuple[str, ...] = ()  # by rank; empty = unknown


@dataclass(frozen=True, slots=True)
class NonfiniteLayer:
    """Non-finite gradient elements of one layer in one step of a block, as one rank reported them."""

    row: int
    layer: int  # index in Layout.names; -1 = only the total is known
    rank: int
    nan_count: int
    positive_inf_count: int
    negative_inf_count: int


@dataclass(frozen=True, slots=True, eq=False)
class RankLayers:
    """Norms of one rank's own gradients by layer, before the all-reduce, in the steps of a block that were sampled."""

    rank: int
    rows: Int64  # [k], rising: indexes of the steps
    norms: Float32  # [k, l]; NaN = not sampled, Inf = not finite


@dataclass(frozen=True, slots=True)
class ReplicaGap:
    """A rank that does not agree, in one step of a block, with others that hold the same shards."""

    row: int
    rank: int
    # Distance of its norms from those agreed on, relative to these; at least 2^-24 (the bits differ, the norms hardly),
    # Inf where the others' norm is zero.
    gap: float


@dataclass(frozen=True, slots=True, eq=False)
class ClosedBlock:
    """Consecutive closed steps of one (run, optimizer), composed over ranks: all that a detector may look at.

    How the stream was cut into blocks carries no meaning: any cut gives the same findings.
    """

    layout: Layout
    attempt: int
    branch: int
    steps: Int64  # [n], rising
    times: Float64  # [n], Unix seconds, the latest among the ranks
    ranks_present: Bool  # [n, r]
    global_norm: Float64  # [n], finite part, before clipping, after unscaling; NaN = not known
    layer_norms: Float32  # [n, l], finite part; NaN = not known
    nonfinite: Int64  # [n, 3]: elements that are NaN, +Inf, -Inf
    nonfinite_layers: tuple[NonfiniteLayer, ...]
    inexact: Bool  # [n]: some norm does not compose exactly; the global one is then without it, or what a clip returned
    sources: UInt8  # [n], NormSource of the lowest rank present
    flags: UInt16  # [n], RecordFlag bits united over ranks
    loss: Float64  # [n], mean over the ranks that logged one
    loss_known: Bool  # [n]
    rank_loss: Float64  # [n, r]
    rank_loss_known: Bool  # [n, r]
    rank_norm: Float64  # [n, r], local norm before the all-reduce; NaN = not sampled, Inf = overflow
    learning_rate: Float64  # [n]; NaN = not known, and so for the next four
    loss_scale: Float64
    clip_threshold: Float64
    clip_coefficient: Float64
    step_seconds: Float64
    weight_norms: Float32  # [n, l]; NaN = not sampled
    update_norms: Float32  # [n, l]; NaN = not sampled
    # What no block had from the first: MAX_ABS (largest finite element) and SPECTRAL_GAIN, [n, l]; NaN = not sampled,
    # no key = in no step of the block.
    sampled: Mapping[Quantity, Float32] = field(default_factory=dict)
    rank_layers: tuple[RankLayers, ...] = ()  # by rank, then by row
    replica_gaps: tuple[ReplicaGap, ...] = ()  # by row, then by rank; empty = all agree, or nobody can be compared

    @property
    def count(self) -> int:
        """Number of steps, n."""
        return len(self.steps)
