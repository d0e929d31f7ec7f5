"""What the training thread hands to the sender: frozen data, numpy only.

    capture/ --StepRecord--> outbox/ --StepBatch--> the wire

A StepRecord is one optimizer's step. Absence is None; NaN and Inf are values.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]


# In Nonfinite.parameters: known for the total only, not for one parameter.
TOTAL_ONLY = 2**32 - 1


class RecordKind(enum.IntEnum):
    """What a record is (numbers as on the wire)."""

    STEP = 1
    DETAIL = 2


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


class Travels(enum.IntEnum):
    """What of a record leaves this rank as an ordinary one; the flight recorder keeps all of it."""

    ALL = 0
    LOCAL = 1  # totals and digest, and the norms of the local gradients: a replica whose row another one ships
    TOTALS = 2  # totals and digest: the job wants no more


class Composition(enum.IntEnum):
    """How local norms compose to the whole gradient's (numbers as on the wire)."""

    SUM_OF_SQUARES = 1
    PARTIAL = 2


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as this rank holds it; fields as in telemetry.proto."""

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
    """The parameters behind the tensor columns of one optimizer."""

    optimizer: int
    version: int
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class OptimizerInfo:
    """One watched optimizer."""

    optimizer: int
    class_name: str
    hyperparameters_json: str = ""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What one process says about itself when it opens a run."""

    project: str
    run: str
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
    host_facts: Mapping[str, str] = field(default_factory=dict)
    config_json: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    optimizers: tuple[OptimizerInfo, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Nonfinite:
    """What was not finite in one step: arrays of one length k over the parameters concerned."""

    parameters: UInt32
    nan_counts: UInt64
    positive_inf_counts: UInt64
    negative_inf_counts: UInt64


@dataclass(frozen=True, slots=True, eq=False)
class StepRecord:
    """One optimizer's step on this rank.

    `gradient_norms` is float32[t], the L2 norm of the finite elements of each local gradient, before clipping and after
    unscaling; None when only the total was captured. A record that does not travel whole has a `total_norm`. `tensors`
    holds sampled float32[t] columns.
    """

    optimizer: int
    kind: RecordKind
    branch: int
    sequence: int
    step: int
    time_unix_seconds: float
    source: NormSource
    flags: RecordFlag
    catalog_version: int
    gradient_norms: Float32 | None
    total_norm: float | None = None  # None = derive from gradient_norms
    digest: int | None = None  # replicas other than 0
    nonfinite: Nonfinite | None = None
    scalars: Mapping[Quantity, float] = field(default_factory=dict)
    tensors: Mapping[Quantity, Float32] = field(default_factory=dict)
    data_ids: str | None = None
    travels: Travels = Travels.ALL


def digest_of(row: Float32) -> int:
    """The digest of a row of norms, the same on every replica that computed the same bits.

    BLAKE2b with 8 bytes of output over the little-endian float32 bytes, read as a little-endian integer; every NaN
    counts as the same one.
    """
    canonical = np.where(np.isnan(row), np.float32(np.nan), row).astype("<f4", copy=False)
    return int.from_bytes(hashlib.blake2b(canonical.tobytes(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class AlertNotice:
    """An alert of this run, as the server reported it to the job."""

    alert_id: str
    signature: str
    severity: str
    state: str
    step: int
    reason: str


class DirectiveKind(enum.IntEnum):
    """What the server asks for (numbers as on the wire)."""

    CAPTURE_MORE = 1
    CHECKPOINT = 2
    STOP = 3


@dataclass(frozen=True, slots=True)
class Directive:
    """A hint from the server; the job decides what becomes of it. The same one may arrive more than once."""

    directive_id: str
    kind: DirectiveKind
    reason: str
    alert_id: str
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class DirectiveAnswer:
    """What this rank made of a directive: "applied", "refused" or "ignored", and why."""

    directive_id: str  # "" = acted with the other ranks, without having been asked itself
    kind: DirectiveKind
    outcome: str
    reason: str
    step: int | None = None  # the last one made when it was decided
    by_another_rank: bool = False
