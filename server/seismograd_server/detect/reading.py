"""What a step is against what is usual: made once a step, and asked by every signature."""

from __future__ import annotations

from dataclasses import dataclass

from seismograd_server.detect.facts import UNKNOWN


@dataclass(slots=True)
class Reading:
    """A step against what is usual. Octaves; NaN = cannot be told yet."""

    judged: bool = False  # False: skipped by the loss scaler, not finite, zero or not known
    above: float = UNKNOWN  # norm above its baseline
    excess: float = UNKNOWN  # norm above its record
    far: bool = False
    high: bool = False
    loss_above: float = UNKNOWN  # loss above its reference
    loss_excess: float = UNKNOWN  # deviation of the loss above its largest recent one
    loss_untrained: float = UNKNOWN  # loss above what it was before any training
    bad_loss: bool = False
    ratio: float = UNKNOWN  # log2 of update over weight norm, sampled or estimated
    ratio_is_sampled: bool = False
    runs_away: bool = False  # `runaway` has a ground at this step, for those who look after it
