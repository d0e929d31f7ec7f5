"""Where two curves part: the first point from which they stay apart by more than their own noise. Pure.

In octaves, because norms and losses scatter by factors. A curve's own noise is the spread of the baseline that all
detectors share (median and spread of the latest 64 values, never below a fifth of an octave): what counts as usual for
an alert is then usual here too, a burst moves neither, and rounding or the order of batches never looks like a
difference. Two curves are apart where they differ by more than three times their noises together. While they are
apart nothing is taken into the baselines, so that an explosion does not excuse itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from seismograd_server.detect.baseline import Baseline
from seismograd_server.model import Bool, Float64

# Three standard deviations of the difference: one point in several hundred lies beyond by chance.
_NOISES = 3.0
# Until so many points are known, everything teaches what the noise is.
_LEARNING = 16
# Curves stay apart when nine points in ten from there to the end are; one that comes back was an episode.
_STAYED = 0.9
# The evidence wanted: eight points barely apart, or fewer that are far apart, as at the end of an explosion.
_EVIDENCE = 8.0
_FEWEST = 3
# No single point is evidence for more than this many.
_MOST_EVIDENCE = 4.0
# No two floats are so many octaves apart; finite, so that a median of infinities of both signs is one.
_WIDEST = 4096.0


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two curves part.

    Attributes:
        row: index of the first point from which they stay apart.
        octaves: how far the first one lies above the second from there on, at its median; infinite where one of them is
            not finite any more.
        noise: of the two together at that point, one standard deviation in octaves.
    """

    row: int
    octaves: float
    noise: float


def find_parting(one: Float64, other: Float64) -> Parting | None:
    """Where two aligned curves part; None = they stay together, or cannot be compared.

    Args:
        one: float64[n] in octaves; NaN = not known there, +Inf = no finite value any more.
        other: as `one`.
    """
    known = np.flatnonzero(~np.isnan(one) & ~np.isnan(other))
    if len(known) < _FEWEST:
        return None
    gap = _gap(one[known], other[known])
    noise = _noise(one[known], other[known], gap)
    apart = np.abs(gap) > _NOISES * noise
    row = first_lasting(apart, np.minimum(np.abs(gap) / (_NOISES * noise), _MOST_EVIDENCE))
    if row is None:
        return None
    distance = float(np.median(np.clip(gap[row:], -_WIDEST, _WIDEST)))
    distance = math.copysign(math.inf, distance) if abs(distance) == _WIDEST else distance
    return Parting(int(known[row]), distance, float(noise[row]))


def _gap(one: Float64, other: Float64) -> Float64:
    both = np.isinf(one) & np.isinf(other)
    with np.errstate(invalid="ignore"):
        return np.where(both, 0.0, one - other)


def _noise(one: Float64, other: Float64, gap: Float64) -> Float64:
    """One standard deviation of the difference before each point, from both curves' own baselines."""
    baselines = Baseline(), Baseline()
    noise = np.empty(len(gap))
    levels = zip(one.tolist(), other.tolist(), gap.tolist(), strict=True)
    for row, (first, second, distance) in enumerate(levels):
        noise[row] = math.hypot(baselines[0].spread(), baselines[1].spread())
        if row >= _LEARNING and abs(distance) > _NOISES * noise[row]:
            continue
        for baseline, level in zip(baselines, (first, second), strict=True):
            if math.isfinite(level):
                baseline.accept(level)
    return noise


def first_lasting(apart: Bool, evidence: Float64) -> int | None:
    """First point that is apart, with nine in ten from it on apart as well, and evidence enough among these."""
    remaining = np.arange(len(apart), 0, -1)
    staying = np.cumsum(apart[::-1], dtype=np.int64)[::-1]
    said = np.cumsum((evidence * apart)[::-1])[::-1]
    good = apart & (staying >= _STAYED * remaining) & (staying >= _FEWEST) & (said >= _EVIDENCE - 1e-9)
    rows = np.flatnonzero(good)
    return int(rows[0]) if len(rows) else None
