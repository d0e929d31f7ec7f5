"""What a study of clipping cannot know: a number that hides its limits is not advice. Pure."""

from __future__ import annotations

import numpy as np

from seismograd_server.display.numbers import figure, share
from seismograd_server.display.text import plural
from seismograd_server.model import Float64
from seismograd_server.reading.history import Series
from seismograd_server.report.clip.types import LeftOut, Recommendation

# A 99th percentile of fewer norms rests on the two or three largest.
_FEW = 300
# Norms that were taken behind somebody's clip pile up at its threshold, to a rounding.
_PILED_UP = 1e-3
_PILE_SHARE = 0.2
_PILE_LEAST = 20
_ALWAYS = (
    "The norms are those of the run as it was: clipped otherwise, it would have gone another way, and its later norms "
    "would be others."
)


def limits_of(
    series: Series,
    norm: Float64,
    left_out: LeftOut,
    recommendation: Recommendation,
    exploding: int,
    *,
    closed: int,
) -> tuple[str, ...]:
    """The limits, as sentences; the first one always holds."""
    found = [_ALWAYS]
    if closed > series.count:
        found.append(
            f"Of {closed:,} steps {series.count:,} were looked at, the first and the last among them; "
            "shares are of these."
        )
    if left_out.after_clip:
        found.append(
            f"The norm of {plural(left_out.after_clip, 'step')} was taken after the gradients had been changed: what "
            "it was before the clip is not known, and these are left out."
        )
    if exploding:
        found.append(
            f"{plural(exploding, 'step')} from the onset on {'is' if exploding == 1 else 'are'} left out of the "
            "distribution: an explosion is no level to set a threshold by."
        )
    if left_out.unknown:
        found.append(
            f"{plural(left_out.unknown, 'step')} had no finite norm, or were skipped by the loss scaler: left out."
        )
    if 0 < len(norm) < _FEW:
        found.append(f"There are {plural(len(norm), 'step')} to judge by: the upper percentiles rest on a few of them.")
    if (piled := _pile(norm)) is not None:
        found.append(
            f"{share(piled)} of the norms lie at their largest, {figure(float(norm.max()))}: they may have been "
            "clipped there before they were measured, and then say nothing about larger thresholds."
        )
    if recommendation.threshold is not None and not np.isfinite(series.learning_rate).any():
        found.append("The learning rate was never told: every step weighs by its norm alone.")
    if len(norm):
        found.append(
            "Optimizers that divide by the size of past gradients (Adam and its kin) undo a steady coefficient: there, "
            "only its changes from step to step act."
        )
    return tuple(found)


def _pile(norm: Float64) -> float | None:
    """The share of norms at the largest one, where there are too many of them to be chance."""
    if len(norm) < _PILE_LEAST:
        return None
    at_the_top = float(np.mean(norm >= (1 - _PILED_UP) * norm.max()))
    spread = float(np.quantile(norm, 0.05)) < (1 - 10 * _PILED_UP) * float(norm.max())
    return at_the_top if at_the_top >= _PILE_SHARE and spread else None
