"""What detection costs: microseconds of CPU per step and rank, of calm runs with 150 layers.

    python -m tests.benchmarks.detection_cost

A stream is what one rank sends, so that 64 of them are 64 runs of one rank, or 8 of 8. A tick gives each stream 16
steps, or 64: the busier a server, the longer its ticks. Only the detectors are timed, on blocks that are composed
already.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace

import numpy as np

from seismograd_server.detect.facts import facts_of
from seismograd_server.detect.together import look_together
from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import ClosedBlock
from seismograd_server.transfer.trace_blocks import slice_block
from tests.benchmarks.measure import table
from tests.support.closed import layout, noisy, run_of

LAYERS, STEPS, WARM_UP = 150, 512, 256
# Some detectors look at every 64th step only: what is timed holds as many of these for each way of cutting it.
CYCLE = 64
STEPS_A_TICK = (16, 64)
# (runs, ranks of each)
SHAPES = ((64, 1), (16, 4), (8, 8), (1, 64), (1, 1))


def calm_run(seed: int, ranks: int) -> ClosedBlock:
    """A healthy run with everything that a client ships, samples every tenth step."""
    steps = WARM_UP + STEPS
    generator = np.random.default_rng(seed)
    norms = noisy(steps, seed)
    losses = 1.0 + 2.0 * np.exp(-np.arange(steps) / 300.0)[:, None] + generator.normal(0.0, 0.05, (steps, ranks))
    sampled = (np.arange(steps) % 10 == 0)[:, None]
    block = run_of(
        norms,
        ranks=ranks,
        layout=layout([f"layers.{index}.weight" for index in range(LAYERS)], ranks=ranks),
        loss=losses.mean(axis=1),
        rank_loss=losses,
        learning_rate=np.full(steps, 1e-3),
        clip_coefficient=np.minimum(1.0, 2.0 / norms),
        clip_threshold=np.full(steps, 2.0),
        rank_norm=np.where(sampled, norms[:, None] * 2.0 ** generator.normal(0.0, 0.2, (steps, ranks)), np.nan),
    )
    weights = np.where(sampled, np.float32(3.0), np.float32(np.nan)).repeat(LAYERS, axis=1)
    return replace(block, weight_norms=weights, update_norms=weights * np.float32(0.001))


def cost(runs: int, ranks: int, steps_a_tick: int) -> float:
    """Median over cycles of the CPU time per step and rank, in microseconds."""
    kinds = [calm_run(seed, ranks) for seed in range(min(runs, 4))]
    watches = [RunWatch() for _ in range(runs)]
    for number, watch in enumerate(watches):
        watch.observe(slice_block(kinds[number % len(kinds)], 0, WARM_UP))
    spent = []
    for cycle in range(WARM_UP, WARM_UP + STEPS, CYCLE):
        spent.append(0.0)
        for start in range(cycle, cycle + CYCLE, steps_a_tick):
            blocks = [slice_block(each, start, start + steps_a_tick) for each in kinds]
            began = time.process_time()
            look_together(watches, facts_of([blocks[number % len(blocks)] for number in range(runs)]))
            spent[-1] += time.process_time() - began
    return statistics.median(spent) / (runs * ranks * CYCLE) * 1e6


def main() -> int:
    """Print the table."""
    rows = [
        [f"{runs}", f"{ranks}", f"{runs * ranks}", *(f"{cost(runs, ranks, steps):.1f}" for steps in STEPS_A_TICK)]
        for runs, ranks in SHAPES
    ]
    table(
        f"Detection: {LAYERS} layers, calm runs; us per step and rank",
        ["runs", "ranks each", "streams", *(f"{steps} steps a tick" for steps in STEPS_A_TICK)],
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
