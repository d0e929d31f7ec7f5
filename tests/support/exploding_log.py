"""What a job logs that explodes: the same numbers in whatever format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

STEPS, ONSET = 300, 250


def rows(steps: int = STEPS, onset: int = ONSET) -> Iterator[dict[str, float]]:
    """One row a step: a norm that scatters around one and then grows, of two layers, with loss and learning rate."""
    generator = np.random.default_rng(0)
    for step in range(steps):
        # A float32, as tools log it: steps keep every bit of one, whether or not they have been merged meanwhile.
        norm = float(np.float32(2.0 ** generator.normal(0.0, 0.3) * 1.25 ** max(0, step - onset)))
        yield {
            "train/grad_norm": norm,
            "grad_norm/rnn.weight_hh": 0.8 * norm,
            "grad_norm/head.weight": 0.6 * norm,
            "train/loss": (3.0 - 0.003 * min(step, onset + 5)) * 1.2 ** max(0, step - onset - 5),
            "lr": 1e-3,
            "eval/accuracy": 0.5,
        }
