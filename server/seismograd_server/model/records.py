"""Records as ranks send them, and the sequences that they form."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from seismograd_server.model.arrays import Float32, Float64, Int64, UInt8, UInt16, UInt32, UInt64


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
    # Whether `gradient_norms` were rounded to take less room: then they are no longer those that a digest is of.
    rounded: bool = False

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
