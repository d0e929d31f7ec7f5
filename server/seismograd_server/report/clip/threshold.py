"""Which threshold, and why. Pure.

A threshold should act on what is unusual: at the 90th percentile of usual norms it clips one step in ten and stops an
explosion at its first octave; half above the 99th it changes next to nothing and only bounds what one bad batch can do.
A run that has exploded gets the former, one that has not the latter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seismograd_server.display.numbers import figure, share, times
from seismograd_server.model import Float64
from seismograd_server.report.clip.types import Effect, Recommendation

# A norm whose level has doubled or halved over the run is not described by one distribution.
DRIFT_OCTAVES = 1.0
# Thresholds in use lie between 0.1 and 10; first norms above that say nothing about a good one.
_CUSTOMARY_LIMIT = 10.0
# A net above the 99th percentile: half as much again leaves single large batches of a healthy run alone.
_NET = 1.5
# A threshold within half of the recommended one is as tight: nothing is gained by changing it.
_AS_TIGHT = 1.5
# Beyond four times the net, two octaves of an explosion pass before clipping begins to act.
_LOOSE = 4.0
# Clipped so often, a threshold is a smaller learning rate and no safeguard.
_ENGAGED = 0.8


@dataclass(frozen=True, slots=True)
class Basis:
    """The norms that a threshold is measured from."""

    SETTLED: ClassVar[int] = 12  # fewer norms than this are no level

    count: int
    median: float
    high: float  # 90th percentile
    top: float  # 99th percentile
    settled: bool
    recent: bool  # of the last three tenths alone, because the norm has drifted

    @classmethod
    def of(cls, norm: Float64, *, settled: bool, recent: bool = False) -> Basis | None:
        """Of these norms; None = there is none."""
        if not len(norm):
            return None
        median, high, top = np.quantile(norm, (0.5, 0.9, 0.99)).tolist()
        return cls(len(norm), median, high, top, settled, recent)


def two_digits(value: float) -> float:
    """The number with two significant digits, as thresholds are written.

    >>> two_digits(0.8234)
    0.82
    """
    return float(f"{value:.1e}")


def recommend(basis: Basis | None, in_force: float | None, now: Effect | None, *, exploded: bool) -> Recommendation:
    """A threshold with its reason, or that the one in force may stay."""
    if basis is None:
        return Recommendation(None, keep=False, reason="No norm before clipping is known, so none can be measured.")
    if not basis.settled and basis.median > _CUSTOMARY_LIMIT:
        reason = (
            f"There was no healthy stretch to measure a threshold from: the first norms already were around "
            f"{figure(basis.median)}. 1 is where most start; the norms of a run that learns will tell better."
        )
        return Recommendation(1.0, keep=False, reason=reason, settled=False)
    engaged = now is not None and now.clipped >= _ENGAGED
    tight = two_digits(basis.high)
    wanted = tight if exploded or engaged else two_digits(_NET * basis.top)
    measured = " of the last three tenths of the run, since the norm has drifted" if basis.recent else ""
    basis_note = "" if basis.settled else f" It rests on {basis.count:,} steps: hardly a healthy stretch to measure."
    if in_force is not None and now is not None and (kept := _keep(in_force, wanted, now, exploded=exploded)):
        return Recommendation(in_force, keep=True, reason=f"{kept}{basis_note}", settled=basis.settled)
    why = f"{_why(basis, in_force, now, exploded=exploded, engaged=engaged, measured=measured)}{basis_note}"
    return Recommendation(wanted, keep=False, reason=why, settled=basis.settled)


def _keep(in_force: float, wanted: float, now: Effect, *, exploded: bool) -> str:
    """Why the threshold in force may stay; empty = it should not."""
    if exploded:
        if in_force > _AS_TIGHT * wanted:
            return ""
        return (
            f"It was clipped at {figure(in_force)}, about as tightly as the run's own norms suggest: clipping did not "
            "save this run, and a lower threshold only acts as a smaller learning rate."
        )
    if now.clipped >= _ENGAGED:
        return ""
    if in_force > _LOOSE * wanted:
        return ""
    return (
        f"The threshold in force, {figure(in_force)}, clips {share(now.clipped)} of the steps and leaves "
        f"{share(now.mean)} of the effective learning rate: it bounds what one bad batch can do, and costs little."
    )


def _why(
    basis: Basis, in_force: float | None, now: Effect | None, *, exploded: bool, engaged: bool, measured: str
) -> str:
    if engaged and now is not None and not exploded:
        return (
            f"{share(now.clipped)} of the steps were clipped, so that clipping acted as a learning rate "
            f"{share(now.mean)} of the set one. The 90th percentile of the norms{measured} clips one step in ten; "
            f"multiply the learning rate by about {figure(now.mean, 2)} with it, to keep the steps as long."
        )
    if in_force is not None:
        return (
            f"The threshold in force, {figure(in_force)}, stood {times(in_force / basis.median)} above the usual norm, "
            "so it could not act before the norm had grown that far. "
            f"{'The 90th percentile' if exploded else 'Half above the 99th percentile'} of the norms{measured} acts "
            "an octave after the norm leaves what is usual."
        )
    if exploded:
        return (
            "Nothing limited the norm. This threshold sits at the upper edge of what was usual for this run, the 90th "
            f"percentile of the norms{measured}."
        )
    return (
        f"Nobody clips this run. A threshold half above the 99th percentile of its norms{measured} changes next to "
        "nothing while all is well and bounds what one bad batch can do."
    )
