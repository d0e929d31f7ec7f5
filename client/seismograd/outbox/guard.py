"""The cheap local guard: which records must not wait, and must be the last to be dropped."""

from __future__ import annotations

import math

import numpy as np

from seismograd.record import Quantity, StepRecord

JUMP = 10.0  # tenfold: beyond what a healthy run does from one step to the next, and cheap to be wrong about
_WEIGHT = 1.0 / 16.0  # the level follows within some sixteen records, so that a new level stops being an anomaly


class AnomalyGuard:
    """Judges the records of one stream, in order. It is no detector: it only decides about haste and precedence."""

    def __init__(self) -> None:
        self._log_level: float | None = None

    def is_anomalous(self, record: StepRecord) -> bool:
        """Whether the record has non-finite elements, a non-finite loss, or a total norm ten times the recent level."""
        nonfinite = record.nonfinite is not None and len(record.nonfinite.parameters) > 0
        loss = record.scalars.get(Quantity.LOSS)
        return self._jumped(total_norm(record)) or nonfinite or (loss is not None and not math.isfinite(loss))

    def _jumped(self, norm: float | None) -> bool:
        if norm is None:
            return False
        if not math.isfinite(norm):
            return True
        if norm <= 0.0:
            return False
        log_norm = math.log(norm)
        if self._log_level is None:
            self._log_level = log_norm
            return False
        jumped = log_norm > self._log_level + math.log(JUMP)
        self._log_level += _WEIGHT * (log_norm - self._log_level)
        return jumped


def total_norm(record: StepRecord) -> float | None:
    """The record's total norm over its local shards, or None when nothing was captured."""
    if record.total_norm is not None:
        return record.total_norm
    if record.gradient_norms is None:
        return None
    # Squares of 1e20 leave float32.
    wide = record.gradient_norms.astype(np.float64)
    return math.sqrt(float(np.dot(wide, wide)))
