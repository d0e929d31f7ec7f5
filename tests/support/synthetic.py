"""Synthetic runs in the domain's words: ranks that open, batches in any order, a gradient that explodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from seismograd_server.instruments import Instruments
from seismograd_server.model import (
    Alert,
    Catalog,
    Float32,
    Nonfinite,
    Parameter,
    Quantity,
    RankIdentity,
    RecordKind,
    RunKey,
    ScalarColumn,
    StepBatch,
)
from seismograd_server.pipeline import Arrival, Opened, Pipeline, PipelineSettings
from seismograd_server.store.database import Database

NOW = 1_700_000_000.0
LAYERS = ("embed.weight", "rnn.weight_hh_l0", "head.weight")


def new_pipeline(database: Database, now: float = NOW, **changes: Any) -> Pipeline:
    """A pipeline with instruments of its own, started."""
    settings = changes.pop("settings", PipelineSettings())
    pipeline = Pipeline(database, Instruments(CollectorRegistry()), settings, **changes)
    pipeline.start(now)
    return pipeline


def parameters(names: Sequence[str] = LAYERS, **changes: Any) -> tuple[Parameter, ...]:
    """Whole float32 parameters of 64 x 64, in forward order."""
    common: dict[str, Any] = {
        "shape": (64, 64),
        "numel": 4096,
        "local_numel": 4096,
        "dtype": "float32",
        "module_type": "Linear",
    }
    return tuple(Parameter(name=name, depth=depth, **(common | changes)) for depth, name in enumerate(names))


def healthy_norms(steps: int, layers: int = len(LAYERS), seed: int = 0) -> Float32:
    """Norms with a steady level a layer and a little noise, float32[steps, layers]."""
    generator = np.random.default_rng(seed)
    return np.exp(generator.normal(0.0, 0.1, (steps, layers))).astype(np.float32)


def exploding_norms(steps: int, onset: int, growth: float = 1.35, seed: int = 0) -> Float32:
    """Healthy until `onset`, then every layer grows by the same factor a step."""
    norms = healthy_norms(steps, seed=seed).astype(np.float64)
    norms *= (growth ** np.maximum(0, np.arange(steps) - onset))[:, None]
    return norms.astype(np.float32)


def exploding_losses(steps: int, onset: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A loss that falls slowly, and follows the gradient up."""
    falling = 3.0 - np.arange(steps) * 0.001
    return falling * 1.15 ** np.maximum(0, np.arange(steps) - onset - 3)


def make_batch(handle: int, first: int, norms: Float32 | None, **changes: Any) -> StepBatch:
    """A batch of records from sequence `first` on; steps are the sequences unless given."""
    count = len(changes["steps"]) if "steps" in changes else 0 if norms is None else len(norms)
    losses = changes.pop("losses", None)
    scalars = dict(changes.pop("scalars", {}))
    if losses is not None:
        scalars[Quantity.LOSS] = ScalarColumn(np.arange(count, dtype=np.uint32), np.asarray(losses, np.float64))
    values: dict[str, Any] = {
        "first_sequence": first,
        "optimizer": 0,
        "kind": RecordKind.STEP,
        "branch": 0,
        "catalog_version": 0,
        "steps": np.arange(first, first + count, dtype=np.int64),
        "times": NOW + np.arange(first, first + count, dtype=np.float64),
        "sources": np.ones(count, np.uint8),
        "flags": np.zeros(count, np.uint16),
        "gradient_norms": norms,
        "total_norms": None,
        "digests": None,
        "nonfinite": None,
        "tensors": {},
        "data_ids": {},
    }
    return StepBatch(rank_handle=handle, scalars=scalars, **(values | changes))


def nonfinite(*entries: tuple[int, int, int]) -> Nonfinite:
    """(row, parameter, number of NaN elements) ..."""
    rows, chosen, counts = zip(*entries, strict=True)
    zeros = np.zeros(len(entries), np.uint64)
    return Nonfinite(
        np.array(rows, np.uint32), np.array(chosen, np.uint32), np.array(counts, np.uint64), zeros, zeros.copy()
    )


@dataclass
class SyntheticRun:
    """A run of some ranks with replicas of one model: rank 0 ships norms by layer, the others a total."""

    pipeline: Pipeline
    name: str = "lstm"
    world_size: int = 2
    launch: str = "launch-1"
    norms: Float32 = field(default_factory=lambda: healthy_norms(64))
    losses: Any = None
    opened: list[Opened] = field(default_factory=list)
    capabilities: tuple[str, ...] = ()
    started: float = NOW  # of step 0; a record a second

    def identity(self, rank: int, **changes: Any) -> RankIdentity:
        """What a rank says when it opens."""
        values: dict[str, Any] = {
            "key": RunKey("mt", self.name),
            "launch_id": self.launch,
            "rank": rank,
            "world_size": self.world_size,
            "session_id": f"{self.launch}-{rank}",
            "hostname": f"node-{rank}",
            "capabilities": self.capabilities,
        }
        return RankIdentity(**(values | changes))

    def open(self, now: float = NOW) -> SyntheticRun:
        """Open every rank."""
        catalog = [Catalog(0, 0, parameters(replication=self.world_size))]
        self.opened = [self.pipeline.open_rank(self.identity(rank), catalog, now) for rank in range(self.world_size)]
        return self

    def handle(self, rank: int) -> int:
        """The handle of a rank."""
        return self.opened[rank].handle

    def batch(self, rank: int, first: int, stop: int, **changes: Any) -> StepBatch:
        """Records [first, stop) of a rank."""
        rows = self.norms[first:stop]
        if self.losses is not None:
            changes.setdefault("losses", self.losses[first:stop])
        changes.setdefault("times", self.started + np.arange(first, stop, dtype=np.float64))
        if rank == 0:
            return make_batch(self.handle(rank), first, rows, **changes)
        totals = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
        changes.setdefault("steps", np.arange(first, stop, dtype=np.int64))
        return make_batch(self.handle(rank), first, None, total_norms=totals, **changes)

    def send(self, first: int, stop: int, now: float = NOW, *, ranks: Sequence[int] | None = None) -> None:
        """Ingest records [first, stop) of the ranks (default: all), without judging them."""
        chosen = range(self.world_size) if ranks is None else ranks
        self.pipeline.ingest([Arrival(batches=(self.batch(rank, first, stop),)) for rank in chosen], now)

    def close(self, now: float, outcome: str = "finished", reason: str = "") -> None:
        """Say farewell from every rank, and let the run end."""
        for opened in self.opened:
            self.pipeline.close_rank(opened.handle, outcome, reason, now)
        self.pipeline.detect(now)


def stored_alerts(database: Database) -> list[Alert]:
    """All alerts, oldest first."""
    with database.read() as transaction:
        return list(transaction.alerts.list(limit=1000))[::-1]


def outline(database: Database) -> list[tuple[str, str, int, int, int, str]]:
    """What there is to say of all alerts but when, oldest first."""
    return [
        (each.signature.value, each.scope, each.since_step, each.opened_step, int(each.severity), each.state.value)
        for each in stored_alerts(database)
    ]
