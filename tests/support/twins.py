"""Words of the brute-force twins: what a definition says, computed over the whole run again at every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st

from seismograd_server.model import Severity
from tests.support.closed import noisy

STEPS, WARM_UP, WINDOW, UNTRAINED = 400, 20, 64, 10
Told = list[tuple[int, Severity]]
SEEDS = st.integers(0, 2**32 - 1)
twins = settings(max_examples=25, deadline=None)


def calm(seed: int = 0) -> npt.NDArray[np.float64]:
    return noisy(STEPS, seed, octaves=0.05)


def episodes(generator: np.random.Generator, share: float, longest: int) -> npt.NDArray[np.bool_]:
    """True in stretches of random lengths."""
    found = np.zeros(STEPS, dtype=np.bool_)
    for start in np.flatnonzero(generator.random(STEPS) < share):
        found[start : start + generator.integers(1, longest)] = True
    return found


def run_length(true: npt.NDArray[np.bool_], step: int) -> int:
    """For how many steps in a row it has been true, up to a step."""
    count = 0
    while count <= step and true[step - count]:
        count += 1
    return count


def lower_median(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    return float(sorted(values)[(len(values) - 1) // 2])


def usual(values: npt.NDArray[np.float64], step: int) -> float:
    """The median of the values of the window before a step."""
    return lower_median(values[max(0, step - WINDOW) : step])
