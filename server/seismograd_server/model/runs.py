"""Runs, their launches, and the ranks of a launch."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class RunState(enum.StrEnum):
    """Where a run is in its life."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"  # silent for longer than `lost_after_seconds`, without a word of farewell


# The tag of a run that was read from another tool's log: which tool's.
IMPORTED_TAG = "imported_from"


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
    host_facts: Mapping[str, str] = field(default_factory=dict)  # by name, as the client found them
    config_json: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    optimizers: tuple[OptimizerInfo, ...] = ()
    clock_skew_seconds: float = 0.0  # client minus server, estimated when it opened
    capabilities: tuple[str, ...] = ()  # what its client understands; words without blanks


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

    @property
    def imported(self) -> bool:
        """Whether it was read from a log: then it happened some time ago, elsewhere, and nobody is to be told of it."""
        return IMPORTED_TAG in self.tags


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
    capabilities: frozenset[str] = frozenset()  # what its client understands
    driver_version: str = ""
    host_facts: Mapping[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Catalog:
    """The parameters behind the tensor columns of one (rank, optimizer)."""

    optimizer: int
    version: int
    parameters: tuple[Parameter, ...]
