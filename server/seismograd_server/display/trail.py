"""A run at a glance: the gradient norm over all its steps, in a drawing of a line's height that stands alone. Pure."""

from __future__ import annotations

import math

import numpy as np

from seismograd_server.display.look import colours
from seismograd_server.display.scale import LinearScale, LogScale
from seismograd_server.display.svg import curve
from seismograd_server.model import TALLIES, Float64, Summary

WIDTH, HEIGHT = 120, 28
_MARGIN = 2.0
# The noise of a healthy run is a fraction of this, so that it looks as calm as it is.
_LEAST_DECADES = 3
_NORM, _BROKEN_STEPS, _SKIPPED = "grad_norm", TALLIES.index("nonfinite_steps"), TALLIES.index("skipped_by_scaler")


def trail_picture(summary: Summary | None) -> str:
    """The largest norm of each bucket on a logarithmic scale, with a mark at the top where gradients were broken.

    `summary` is of the run's own series, None = it has no steps. A scaler's skipped steps are no broken ones.
    """
    drawn = "" if summary is None else _drawn(summary)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"<style>{_style()}</style>{drawn}</svg>"
    )


def _drawn(summary: Summary) -> str:
    norms: Float64 = summary.maximum[:, summary.names.index(_NORM)].astype(np.float64)
    # Where no step was sound, the norm of what was finite says nothing.
    norms[summary.tallies[:, _BROKEN_STEPS] >= summary.steps] = np.nan
    steps = summary.first_steps.astype(np.float64)
    across = LinearScale(float(steps[0]), float(steps[-1]), _MARGIN, WIDTH - _MARGIN)
    places = across.places(steps)
    broken = places[summary.tallies[:, _BROKEN_STEPS] > summary.tallies[:, _SKIPPED]]
    marks = "".join(f'<path class="broken" d="M{place:.1f} 0v5"/>' for place in np.unique(broken.round()).tolist())
    return curve(places, _calm_scale(norms).places(norms), "norm") + marks


def _calm_scale(norms: Float64) -> LogScale:
    """A scale on which what varies little looks level, in the middle."""
    scale = LogScale.around(norms, HEIGHT - _MARGIN, _MARGIN)
    missing = max(0, _LEAST_DECADES - (scale.high_exponent - scale.low_exponent))
    low = scale.low_exponent - missing // 2
    return LogScale(low, scale.high_exponent + math.ceil(missing / 2), scale.start, scale.end)


def _style() -> str:
    (norm, norm_dark), (broken, broken_dark) = colours("norm"), colours("critical")
    return (
        f"path{{fill:none;stroke-width:1.4;stroke-linejoin:round}}.norm{{stroke:{norm}}}.norm-dot{{fill:{norm}}}"
        f".broken{{stroke:{broken}}}@media(prefers-color-scheme:dark){{.norm{{stroke:{norm_dark}}}"
        f".norm-dot{{fill:{norm_dark}}}.broken{{stroke:{broken_dark}}}}}"
    )
