"""Bytes per value on the disk after compaction, as a marginal cost: what one more run adds, divided by its values.

    (size of the database with many copies of a run - its size with few copies) / values added

A value is one (run, rank, step, layer) gradient norm. Every copy goes through the server's own pipeline in batches of
16 steps, is judged, ends, and is summarised and compacted by the server's own chores, so that everything counts that a
run leaves: keys, indexes, catalog, closed steps, summaries, detectors' states. Give the norms of a real run with
`--norms` (a .npy file, float32 [steps, layers]); without it they are a synthetic walk, which says little about real
ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry

from seismograd_server.app.wiring import chores
from seismograd_server.config import Settings, Storage
from seismograd_server.instruments import Instruments
from seismograd_server.model import (
    Catalog,
    Parameter,
    Quantity,
    RankIdentity,
    RecordKind,
    RunKey,
    ScalarColumn,
    StepBatch,
)
from seismograd_server.pipeline import Arrival, Pipeline, PipelineSettings
from seismograd_server.store.codec import decode_dense, encode_dense
from seismograd_server.store.database import Database
from seismograd_server.store.mantissa import EXACT_BITS
from seismograd_server.store.merging import merge
from tests.benchmarks.measure import table

Norms = npt.NDArray[np.float32]
STEPS_A_BATCH = 16
NOW = 1_700_000_000.0
# What each copy costs must not depend on how many there are: the formula of the goal takes these two numbers.
COPIES = (20, 200)


def walk(steps: int = 1500, layers: int = 150) -> Norms:
    """Norms that wander slowly and scatter by a tenth from step to step, as real ones do; float32 [steps, layers]."""
    generator = np.random.default_rng(0)
    level = generator.normal(-3.0, 1.0, layers) + np.cumsum(generator.normal(0.0, 0.01, (steps, 1)), axis=0)
    common = generator.normal(0.0, 0.08, (steps, 1))
    return np.exp(level + common + generator.normal(0.0, 0.1, (steps, layers))).astype(np.float32)


def scalars_of(steps: int) -> dict[Quantity, npt.NDArray[np.float64]]:
    """What a client sends beside the norms: a loss that falls, a rate that is warmed up, times that jitter."""
    generator = np.random.default_rng(1)
    rows = np.arange(steps)
    loss = 2.0 + 3.0 * np.exp(-rows / 300.0) + generator.normal(0.0, 0.05, steps)
    return {
        Quantity.LOSS: loss.astype(np.float32).astype(np.float64),  # losses are float32 tensors
        Quantity.LEARNING_RATE: 1e-3 * np.minimum(1.0, (rows + 1) / 200.0),
        Quantity.STEP_SECONDS: 0.134 + np.abs(generator.normal(0.0, 0.004, steps)),
        Quantity.CAPTURE_SECONDS: 5e-5 + np.abs(generator.normal(0.0, 5e-6, steps)),
    }


def send(pipeline: Pipeline, name: str, norms: Norms, *, scalars: bool) -> None:
    """One run from its opening to its end."""
    steps, layers = norms.shape
    parameters = tuple(
        Parameter(
            name=f"decoder.layers.{index // 12}.block.{index % 12}.weight",
            shape=(64, 64),
            numel=4096,
            local_numel=4096,
            dtype="float32",
            module_type="Linear",
            depth=index,
        )
        for index in range(layers)
    )
    identity = RankIdentity(RunKey("bench", name), launch_id=name, rank=0, world_size=1, session_id=name)
    handle = pipeline.open_rank(identity, [Catalog(0, 0, parameters)], NOW).handle
    # Every copy has clocks of its own.
    times = NOW + np.cumsum(0.134 + np.random.default_rng(handle).exponential(0.004, steps))
    beside = scalars_of(steps) if scalars else {}
    for first in range(0, steps, STEPS_A_BATCH):
        part = slice(first, min(first + STEPS_A_BATCH, steps))
        rows = np.arange(part.stop - first, dtype=np.uint32)
        batch = StepBatch(
            rank_handle=handle,
            optimizer=0,
            kind=RecordKind.STEP,
            branch=0,
            first_sequence=first,
            catalog_version=0,
            steps=np.arange(part.start, part.stop),
            times=times[part],
            sources=np.ones(len(rows), np.uint8),
            flags=np.zeros(len(rows), np.uint16),
            gradient_norms=norms[part],
            total_norms=None,
            digests=None,
            nonfinite=None,
            scalars={quantity: ScalarColumn(rows, values[part]) for quantity, values in beside.items()},
            tensors={},
            data_ids={},
        )
        pipeline.ingest([Arrival(batches=(batch,))], float(times[part][-1]))
        pipeline.detect(float(times[part][-1]))
    end = float(times[-1]) + 1.0
    pipeline.close_rank(handle, "finished", "", end)
    pipeline.detect(end)


def sizes(folder: Path, norms: Norms, bits: int, copies: tuple[int, int], *, scalars: bool) -> dict[int, int]:
    """Bytes of the database with so many copies of a run, by their number, everything compacted."""
    found, sent = {}, 0
    for number in copies:
        with Database.open(f"sqlite:///{folder / 'storage.db'}", owner="benchmark") as database:
            instruments = Instruments(CollectorRegistry())
            pipeline = Pipeline(database, instruments, PipelineSettings(view_seconds=0.0))
            pipeline.start(NOW)
            work = chores(database, Settings(storage=Storage(mantissa_bits=bits)), instruments, lambda _point: None)
            while sent < number:
                send(pipeline, f"copy-{sent}", norms, scalars=scalars)
                sent += 1
                for chore in work:
                    while chore.step(NOW + 10_000.0 * sent):  # long after the end of the run
                        pass
            pipeline.stop(NOW)
            while database.reclaim():
                pass
        found[number] = (folder / "storage.db").stat().st_size
    return found


def codec_speed(norms: Norms, bits: int) -> tuple[float, float]:
    """Nanoseconds a value to merge and encode batches of 16 steps, and to decode what came of it."""
    batches = [
        StepBatch(
            1, 0, RecordKind.STEP, 0, first, 0, np.arange(first, first + len(rows)), np.full(len(rows), NOW),
            np.ones(len(rows), np.uint8), np.zeros(len(rows), np.uint16), rows, None, None, None, {}, {}, {},
        )
        for first in range(0, len(norms), STEPS_A_BATCH)
        for rows in [norms[first : first + STEPS_A_BATCH]]
    ]  # fmt: skip
    encoding, decoding = [], []
    for _ in range(5):
        began = time.perf_counter()
        data = encode_dense(merge(batches, bits))
        encoded = time.perf_counter()
        decode_dense(data)
        encoding.append(encoded - began)
        decoding.append(time.perf_counter() - encoded)
    return sorted(encoding)[2] / norms.size * 1e9, sorted(decoding)[2] / norms.size * 1e9


def main() -> None:
    """Prints bytes per value and the speed of the codec."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--norms", type=Path, help="a .npy file, float32 [steps, layers]")
    parser.add_argument("--copies", type=int, nargs=2, default=COPIES, metavar=("FEW", "MANY"))
    arguments = parser.parse_args()
    norms = walk() if arguments.norms is None else np.load(arguments.norms).astype(np.float32)
    few, many = arguments.copies
    lines = []
    for name, bits in (("12 bits", 12), ("lossless", EXACT_BITS)):
        encode, decode = codec_speed(norms, bits)
        marginal = []
        for scalars in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                found = sizes(Path(folder), norms, bits, (few, many), scalars=scalars)
            marginal.append((found[many] - found[few]) / ((many - few) * norms.size))
        lines.append([name, *(f"{each:.3f}" for each in marginal), f"{encode:.0f}", f"{decode:.0f}"])
    source = "a synthetic walk" if arguments.norms is None else "norms from a file"
    shape = f"{norms.shape[0]} steps x {norms.shape[1]} layers"
    table(
        f"Bytes per value after compaction: {source}, {shape}, {few} to {many} copies",
        ["norms kept", "norms alone", "with loss, rate, times", "encode ns/value", "decode ns/value"],
        lines,
    )


if __name__ == "__main__":
    main()
