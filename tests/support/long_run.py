"""A long run in a store, written in large batches: as a compactor leaves it, with a checkpoint of the detectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seismograd_server.detect.watch import WatchConfig
from seismograd_server.model import (
    Catalog,
    ClosedBlock,
    Float32,
    Float64,
    Launch,
    Quantity,
    Rank,
    RankIdentity,
    RecordKind,
    RunKey,
    ScalarColumn,
    StepBatch,
)
from seismograd_server.pipeline import PipelineSettings
from seismograd_server.pipeline.ranks import Sender
from seismograd_server.pipeline.series import Series
from seismograd_server.store.database import Database, Transaction
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.store.progress import Progress
from tests.support.closed import layout, run_of
from tests.support.synthetic import parameters

KEY = RunKey("bench", "long")
# Records of a segment, and steps of a block, once they have been merged.
BATCH = 1024
_SPIKE = 1000.0


@dataclass(frozen=True)
class LongRun:
    """What is to be written: norms of `layers` layers over `steps` steps, reported by `ranks` replicas."""

    steps: int
    layers: int = 300
    ranks: int = 8
    spikes: tuple[int, ...] = ()  # steps whose norms are a thousand times what they would be

    @property
    def names(self) -> list[str]:
        """The layers."""
        return [f"decoder.layers.{index // 12}.block.{index % 12}.weight" for index in range(self.layers)]

    def norms(self, first: int, stop: int) -> Float32:
        """Norms of [first, stop), float32[steps, layers]: the same for every call with the same first step."""
        generator = np.random.default_rng(first)
        level = np.random.default_rng(0).normal(0.0, 1.5, self.layers)
        norms = np.exp(level + generator.normal(0.0, 0.15, (stop - first, self.layers)))
        for spike in self.spikes:
            if first <= spike < stop:
                norms[spike - first] *= _SPIKE
        return norms.astype(np.float32)


def write(database: Database, long: LongRun, started: float) -> None:
    """Writes the run, which goes on, a record a second from `started` on."""
    with database.begin() as transaction:
        handles = [_open(transaction, long, rank, started) for rank in range(long.ranks)]
        launch = transaction.runs.launches(1)[-1]
    for first in range(0, long.steps, BATCH):
        stop = min(first + BATCH, long.steps)
        norms = long.norms(first, stop)
        totals = np.sqrt(np.square(norms, dtype=np.float64).sum(axis=1))
        with database.begin() as transaction:
            batches = _batches(handles, first, norms, totals, started)
            transaction.segments.append(list(batches), started + stop)
            block = _block(long, first, norms, totals, started)
            ordinal = transaction.steps.append(1, launch.launch_row, 0, block)
    with database.begin() as transaction:
        transaction.runs.progress([Progress(1, long.steps - 1, long.steps, started + long.steps)])
        rank = transaction.runs.ranks(launch.launch_row)[0]
        state = _state(transaction, launch, rank, block, ordinal)
        transaction.detectors.save_all([DetectorCheckpoint(1, 0, ordinal, state)], started + long.steps)


def _open(transaction: Transaction, long: LongRun, rank: int, now: float) -> int:
    identity = RankIdentity(KEY, "launch", rank, long.ranks, f"session-{rank}", hostname=f"node-{rank // 4}")
    handle = transaction.runs.open_rank(identity, now).rank.handle
    transaction.runs.save_catalog(handle, Catalog(0, 0, parameters(long.names, replication=long.ranks)))
    return handle


def _batches(handles: list[int], first: int, norms: Float32, totals: Float64, started: float) -> Iterator[StepBatch]:
    """As clients ship them: replica 0 the layers, the others a total and a digest."""
    count = len(norms)
    rows = np.arange(count, dtype=np.uint32)
    steps = np.arange(first, first + count, dtype=np.int64)
    for rank, handle in enumerate(handles):
        generator = np.random.default_rng(first + rank)
        scalars = {Quantity.LOSS: ScalarColumn(rows, 2.0 + generator.normal(0.0, 0.05, count))}
        if rank == 0:
            seconds = 0.4 + np.abs(generator.normal(0.0, 0.01, count))
            scalars[Quantity.STEP_SECONDS] = ScalarColumn(rows, seconds)
        yield StepBatch(
            rank_handle=handle,
            optimizer=0,
            kind=RecordKind.STEP,
            branch=0,
            first_sequence=first,
            catalog_version=0,
            steps=steps,
            times=np.asarray(started + steps, np.float64),
            sources=np.ones(count, np.uint8),
            flags=np.zeros(count, np.uint16),
            gradient_norms=norms if rank == 0 else None,
            total_norms=None if rank == 0 else totals,
            digests=None if rank == 0 else totals.view(np.uint64),
            nonfinite=None,
            scalars=scalars,
            tensors={},
            data_ids={},
        )


def _block(long: LongRun, first: int, norms: Float32, totals: Float64, started: float) -> ClosedBlock:
    count = len(norms)
    generator = np.random.default_rng(first)
    losses = 2.0 + generator.normal(0.0, 0.05, (count, long.ranks))
    steps = np.arange(first, first + count, dtype=np.int64)
    return run_of(
        totals,
        ranks=long.ranks,
        layout=layout(long.names, long.ranks),
        layer_norms=norms,
        steps=steps,
        times=np.asarray(started + steps, np.float64),
        loss=losses.mean(axis=1),
        rank_loss=losses,
        learning_rate=1e-3 * np.cos(steps / long.steps),
        clip_threshold=np.full(count, 1.0),
        clip_coefficient=np.minimum(1.0, 1.0 / totals),
        step_seconds=0.4 + np.abs(generator.normal(0.0, 0.01, count)),
    )


def _state(transaction: Transaction, launch: Launch, rank: Rank, block: ClosedBlock, ordinal: int) -> bytes:
    """What the detectors would have saved behind the last block."""
    settings = PipelineSettings()
    series = Series(0, settings.patience, WatchConfig())
    series.begin(launch, rank.opened_at, frontier=(0, int(block.steps[-1])), versions={0: 0})
    catalogs = {(0, 0): transaction.runs.catalogs(launch.launch_row, 0)[rank.handle, 0]}
    series.know(Sender(rank, launch.attempt, KEY.project, catalogs=catalogs))
    series.take(block, series.watch.observe(block))
    series.ordinal = ordinal
    return series.state(transaction.segments.last_id()).to_bytes()
