"""Trace files for tests: small runs with every array, any of which may be replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.closed import noisy

LAYERS = ("embed.weight", "rnn.weight_hh_l0", "head.weight")


def arrays(norms: Any, ranks: int = 1, **changes: Any) -> dict[str, Any]:
    """The arrays of a run whose global norm is `norms`; healthy but for that and the changes. None = leave it out."""
    norm = np.asarray(norms, dtype=np.float64)
    count, tensors = len(norm), len(LAYERS)
    even = np.repeat((norm / np.sqrt(tensors))[:, None], tensors, axis=1)
    found = {
        "grad_norms": np.repeat(even[None], ranks, axis=0).astype(np.float32),
        "avg_grad_norms": (even if ranks > 1 else np.zeros((0, tensors))).astype(np.float32),
        "weight_norms": np.full((count, tensors), 10.0, np.float32),
        "update_norms": np.full((count, tensors), 0.01, np.float32),
        "loss": np.linspace(2.0, 1.0, count, dtype=np.float32),
        "rank_loss": np.zeros((0, count), np.float32),
        "lr": np.full(count, 0.1, np.float32),
        "clipped": np.zeros(count, np.bool_),
        "loss_scale": np.zeros(0, np.float32),
        "clip_threshold": np.float32(np.nan),
        "layer_names": np.array(LAYERS),
    }
    return {name: value for name, value in (found | changes).items() if value is not None}


def write(path: Path, steps: int = 200, ranks: int = 1, **changes: Any) -> Path:
    """Write a healthy run to a file; the changes are arrays."""
    np.savez(path, **arrays(noisy(steps), ranks, **changes))
    return path


def write_explosion(path: Path, steps: int = 120, onset: int = 80) -> Path:
    """Write a run whose norm and loss double every step from `onset` on."""
    growth = 2.0 ** np.maximum(0, np.arange(steps) - onset)
    values = arrays(noisy(steps) * growth)
    values["loss"] = (values["loss"] * growth).astype(np.float32)
    values["update_norms"] = (values["update_norms"] * growth[:, None]).astype(np.float32)
    np.savez(path, **values)
    return path
