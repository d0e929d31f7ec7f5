"""Live runs at one moment, for those who only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from seismograd_server.model.alerts import DetectorStatus, Severity, Signature
from seismograd_server.model.arrays import Float32, Float64
from seismograd_server.model.runs import Run


@dataclass(frozen=True, slots=True)
class Tally:
    """Gauges and counters of one run (first optimizer), folded over its closed steps; None = not known yet.

    Serialised with the detectors' checkpoint, so that a counter neither jumps nor repeats when a server restarts.
    """

    step: int | None = None
    grad_norm: float | None = None  # the latest finite one
    grad_norm_max: float | None = None  # largest finite element (inf-norm), when sampled
    grad_norm_baseline: float | None = None
    grad_norm_window: tuple[tuple[int, float], ...] = ()  # (Unix minute, maximum in it), the latest five
    loss: float | None = None  # NaN and Inf are kept: they are data
    loss_scale: float | None = None
    learning_rate: float | None = None
    update_ratio: float | None = None
    steps: int = 0
    nonfinite_steps: int = 0  # not explained by the loss scaler
    skipped_found_inf: int = 0
    skipped_user: int = 0
    clipped_steps: int = 0
    missing_records: int = 0
    signatures: Mapping[str, int] = field(default_factory=dict)  # signature -> alerts opened so far
    rank_spread_ratio: float | None = None
    ranks_reporting: int = 0
    disagreeing_steps: int = 0  # replicas of a shard were apart by more than rounding
    replica_gap: float | None = None  # the largest of the last such step, relative to the norm agreed on
    lowest_missing_rank: int | None = None  # of the ranks that the last closed step had to do without


@dataclass(frozen=True, slots=True, eq=False)
class LayerLevels:
    """Gradient norms by layer of a run's last closed step, and what is usual for each."""

    names: tuple[str, ...]
    norms: Float32  # [l]; NaN = not known
    usual: Float64  # [l], median over the quiet steps of late; NaN = not known


@dataclass(frozen=True, slots=True)
class RunView:
    """One live run in the snapshot that `/metrics` and the pages read."""

    run: Run
    tally: Tally
    active: Mapping[Signature, Severity]  # firing alerts by signature
    statuses: tuple[DetectorStatus, ...]
    dtype: str = ""  # that most elements of the gradient have; empty = not known yet
    clock_skew_seconds: float | None = None  # client minus server, of the rank that is farthest off; None = none told
    capture_share: float | None = None  # of the step time, of the rank whom capturing costs most; None = none told
    layers: LayerLevels | None = None  # when layers are exported, from the first closed step on


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is live, at one moment; immutable, replaced as a whole."""

    taken_at: float
    runs: tuple[RunView, ...] = ()
