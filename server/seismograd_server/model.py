"""The domain in frozen types, from what a rank sends to what a person reads. No I/O, no clock, no protobuf.

    StepBatch  --(compose, close)-->  ClosedBlock  --(detect)-->  Finding  --(lifecycle)-->  Alert

Arrays follow one rule: NaN and Inf in a value are data. Where a number may be missing, either a mask named `*_known`
says so, or the docstring says that NaN means "not known" (only for quantities that are never NaN themselves).
Shapes: n = records or steps, t = parameters of one rank's catalog, l = layers of the run, r = ranks.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]


# ---------------------------------------------------------------------------------------------- runs, launches, ranks


class RunState(enum.StrEnum):
    """Where a run is in its life."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"  # silent for longer than `lost_after_seconds`, without a word of farewell


@dataclass(frozen=True, slots=True)
class RunKey:
    """What people call a run."""

    project: str
    run: str

    def __str__(self) -> str:
        return f"{self.project}/{self.run}"


@dataclass(frozen=True, slots=True)
class RankIdentity:
    """What one process says about itself when it opens a run (OpenRunRequest without its catalogs)."""

    key: RunKey
    launch_id: str
    rank: int
    world_size: int
    session_id: str
    client_version: str = ""
    python_version: str = ""
    framework: str = ""
    strategy: str = ""
    hostname: str = ""
    process_id: int = 0
    local_rank: int = 0
    device_type: str = ""
    device_name: str = ""
    device_uuid: str = ""
    driver_version: str = ""
    config_json: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    optimizers: tuple[OptimizerInfo, ...] = ()
    clock_skew_seconds: float = 0.0  # client minus server, estimated when it opened


@dataclass(frozen=True, slots=True)
class OptimizerInfo:
    """One watched optimizer."""

    optimizer: int
    class_name: str
    hyperparameters_json: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the store knows it."""

    run_id: int
    key: RunKey
    state: RunState
    started_at: float  # Unix seconds
    last_record_at: float | None
    ended_at: float | None
    failure_reason: str
    config_json: str
    tags: Mapping[str, str]
    framework: str
    strategy: str
    attempts: int
    world_size: int  # of the latest launch
    last_step: int | None  # last closed step of the first optimizer
    closed_steps: int  # of the first optimizer


@dataclass(frozen=True, slots=True)
class Launch:
    """One set of processes started together; an attempt of a run."""

    launch_row: int
    run_id: int
    launch_id: str
    attempt: int  # from 1
    world_size: int
    opened_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a launch, under the handle that batches carry."""

    handle: int
    launch_row: int
    run_id: int
    rank: int
    session_id: str
    hostname: str
    device_name: str
    device_uuid: str
    process_id: int
    opened_at: float
    last_seen_at: float
    ended_at: float | None
    outcome: str  # "", "finished" or "failed"
    reason: str


class Composition(enum.IntEnum):
    """How local norms compose (numbers as on the wire)."""

    SUM_OF_SQUARES = 1
    PARTIAL = 2


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as one rank holds it; fields as in telemetry.proto."""

    name: str
    shape: tuple[int, ...]
    numel: int
    local_numel: int
    dtype: str
    module_type: str
    depth: int
    shard_id: int = 0
    shard_count: int = 1
    replica_index: int = 0
    replication: int = 1
    composition: Composition = Composition.SUM_OF_SQUARES
    tied_group: str = ""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The parameters behind the tensor columns of one (rank, optimizer)."""

    optimizer: int
    version: int
    parameters: tuple[Parameter, ...]


# ------------------------------------------------------------------------------------------------------------ records


class RecordKind(enum.IntEnum):
    """What a record is (numbers as on the wire)."""

    STEP = 1
    DETAIL = 2


class Quantity(enum.IntEnum):
    """A named per-step number (numbers as on the wire)."""

    LOSS = 1
    LEARNING_RATE = 2
    LOSS_SCALE = 3
    CLIP_THRESHOLD = 4
    CLIP_COEFFICIENT = 5
    REPORTED_NORM = 6
    STEP_SECONDS = 7
    CAPTURE_SECONDS = 8
    LOCAL_NORM = 9
    WEIGHT_NORM = 10
    UPDATE_NORM = 11
    MAX_ABS = 12
    SPECTRAL_GAIN = 13
    LOCAL_GRADIENT_NORM = 14


class NormSource(enum.IntEnum):
    """Where a gradient norm was taken (numbers as on the wire)."""

    CLIP = 1
    OPTIMIZER_STEP = 2
    POST_MODIFICATION = 3
    SCALER_SKIP = 4
    FRAMEWORK = 5
    IMPORT = 6


class RecordFlag(enum.IntFlag):
    """Bits of a record (numbers as on the wire)."""

    SKIPPED_BY_SCALER = 1
    SKIPPED_BY_USER = 2
    CLIPPED = 4
    INEXACT = 8
    FLATTENED = 16


@dataclass(frozen=True, slots=True, eq=False)
class Nonfinite:
    """Sparse counts of what was not finite: one entry per (record, parameter), all arrays of one length k.

    `parameters` holds 2**32 - 1 where only the total is known.
    """

    rows: UInt32
    parameters: UInt32
    nan_counts: UInt64
    positive_inf_counts: UInt64
    negative_inf_counts: UInt64


TOTAL_ONLY = 2**32 - 1


@dataclass(frozen=True, slots=True, eq=False)
class ScalarColumn:
    """A number per record where known: `rows` uint32[k] rising, `values` float64[k]."""

    rows: UInt32
    values: Float64


@dataclass(frozen=True, slots=True, eq=False)
class TensorColumn:
    """A number per record and parameter where sampled: `rows` uint32[k], `parameters` uint32[m], `values` [k, m]."""

    rows: UInt32
    parameters: UInt32
    values: Float32


@dataclass(frozen=True, slots=True, eq=False)
class StepBatch:
    """Records of one (rank, optimizer, kind, branch), consecutive in sequence; columns as on the wire, validated."""

    rank_handle: int
    optimizer: int
    kind: RecordKind
    branch: int
    first_sequence: int
    catalog_version: int
    steps: Int64  # [n], rising
    times: Float64  # [n], Unix seconds of the client
    sources: UInt8  # [n], NormSource
    flags: UInt16  # [n], RecordFlag
    gradient_norms: Float32 | None  # [n, t], norm of the finite part; None = not captured on this rank
    total_norms: Float64 | None  # [n]; None = derive from gradient_norms
    digests: UInt64 | None  # [n]; None = replica 0
    nonfinite: Nonfinite | None
    scalars: Mapping[Quantity, ScalarColumn]
    tensors: Mapping[Quantity, TensorColumn]
    data_ids: Mapping[int, str]  # row -> what the step saw

    @property
    def count(self) -> int:
        """Number of records, n."""
        return len(self.steps)

    @property
    def end_sequence(self) -> int:
        """The first sequence behind the batch."""
        return self.first_sequence + len(self.steps)


@dataclass(frozen=True, slots=True)
class StreamKey:
    """Names a sequence of records: numbers run from 0 per (rank, optimizer, kind)."""

    rank_handle: int
    optimizer: int
    kind: RecordKind


@dataclass(frozen=True, slots=True)
class DroppedRange:
    """Records that will never come."""

    stream: StreamKey
    first_sequence: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Watermark:
    """All records below `accepted` are in the log, all below `durable` are committed."""

    stream: StreamKey
    accepted: int
    durable: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that the job has written."""

    rank_handle: int
    step: int
    path: str
    saved_at: float


@dataclass(frozen=True, slots=True)
class Health:
    """Running totals of one client's own health."""

    rank_handle: int
    dropped_records: Mapping[str, int]
    queued_bytes: int
    spool_bytes: int
    hook_seconds: float
    hook_calls: int
    capture_share: float
    clock_skew_seconds: float


# ------------------------------------------------------------------------------------------------------- closed steps


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
    inexact: Bool  # [n]: some norm does not compose exactly
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

    @property
    def count(self) -> int:
        """Number of steps, n."""
        return len(self.steps)


# ------------------------------------------------------------------------------------------------ findings and alerts


class Severity(enum.IntEnum):
    """How bad it is; the numbers are those of `seismograd_run_signature_active`."""

    NONE = 0
    INFO = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """Lower-case name, as in labels and JSON."""
        return self.name.lower()


class Signature(enum.StrEnum):
    """The catalogue of what detectors can see; values are the promised label values."""

    NONFINITE = "nonfinite"
    RUNAWAY = "runaway"
    SPIKE = "spike"
    DEPTH_GROWTH = "depth_growth"
    RECURRENT_GAIN = "recurrent_gain"
    UPDATE_OVERSHOOT = "update_overshoot"
    CLIP_SATURATION = "clip_saturation"
    RANK_OUTLIER = "rank_outlier"
    REPLICA_DESYNC = "replica_desync"
    LOSS_SCALE_COLLAPSE = "loss_scale_collapse"
    LOSS_DIVERGENCE = "loss_divergence"
    VANISHING = "vanishing"
    DEAD_LAYER = "dead_layer"
    STALLED = "stalled"
    FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a detector saw; None = not known or without meaning for this signature."""

    value: float | None = None  # the number that was judged (a norm unless `reason` says otherwise)
    baseline: float | None = None
    threshold: float | None = None
    doubling_time_steps: float | None = None
    steps_to_overflow: float | None = None
    leading_layer: str | None = None
    leading_rank: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON values only


@dataclass(frozen=True, slots=True)
class Finding:
    """A detector's level changed at `step`, the last step whose data was used.

    `severity` NONE says that the condition is over. While it lasts, a finding is given again only when the severity
    rises or the evidence becomes notably worse; the lifecycle does the rest.
    """

    signature: Signature
    severity: Severity
    scope: str  # "" = the whole run; otherwise what it is about ("layer:rnn.weight_hh_l0", "rank:3")
    step: int
    since_step: int
    evidence: Evidence
    reason: str  # one line a person can read


class Visibility(enum.StrEnum):
    """Whether a detector can see."""

    ARMED = "armed"
    WARMING_UP = "warming_up"
    BLIND = "blind"


@dataclass(frozen=True, slots=True)
class DetectorStatus:
    """What a detector can see of a run right now, and why not more."""

    signature: Signature
    visibility: Visibility
    because: str  # empty when armed


class AlertState(enum.StrEnum):
    """Where an alert is in its life; acknowledgement, silence and inhibition are attributes, not states."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Resolution(enum.StrEnum):
    """Why an alert was resolved."""

    RECOVERED = "recovered"
    ENDED = "ended"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as it is stored; unique by (run, signature, scope, opened_step)."""

    alert_id: str
    run_id: int
    key: RunKey
    signature: Signature
    scope: str
    severity: Severity
    state: AlertState
    since_step: int
    opened_step: int
    last_step: int
    opened_at: float  # Unix seconds
    updated_at: float
    resolved_at: float | None
    resolution: Resolution | None
    evidence: Evidence
    reason: str
    fingerprint: str  # sha256 of (project, run, signature, scope)
    acknowledged_by: str = ""
    acknowledged_at: float | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of an alert, with its named cause; the history of an alert is the list of these."""

    alert: Alert  # as it is afterwards
    before: AlertState | None  # None = opened now
    cause: str
    at: float
    notify: bool  # whether people must hear of it


# ------------------------------------------------------------------------------------------------------ live runs


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


@dataclass(frozen=True, slots=True)
class RunView:
    """One live run in the snapshot that `/metrics` and the pages read."""

    run: Run
    tally: Tally
    active: Mapping[Signature, Severity]  # firing alerts by signature
    statuses: tuple[DetectorStatus, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is live, at one moment; immutable, replaced as a whole."""

    taken_at: float
    runs: tuple[RunView, ...] = ()
