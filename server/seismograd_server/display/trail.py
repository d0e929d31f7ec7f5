"""A run at a glance: the gradient norm over all its steps, in a drawing of a line's height. Pure."""

from __future__ import annotations

import math

import numpy as np

from seismograd_server.display.curves import CurveData
from seismograd_server.display.look import colours
from seismograd_server.display.scale import LinearScale, LogScale
from seismograd_server.display.svg import curve, escaped
from seismograd_server.model import Float64

WIDTH, HEIGHT = 120, 28
_MARGIN = 2.0
# The noise of a healthy run is a fraction of this, so that it looks as calm as it is.
_LEAST_DECADES = 3


def trail_picture(data: CurveData | None) -> str:
    """The drawing as a file of its own, with its colours for light and dark paper; None = there is no step."""
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    drawn = "" if data is None else _drawn(data)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_style()}</style>{drawn}</svg>'


def trail_chart(data: CurveData, label: str, onset: int | None = None) -> str:
    """The drawing as a part of a page, whose style sheet colours it; `onset` is a step to mark."""
    line = ""
    if onset is not None:
        (place,) = _across(data).places(np.array([onset], np.float64)).tolist()
        line = f'<path class="onset-line" d="M{place:.1f} 0V{HEIGHT}"/>'
    return (
        f'<svg class="chart trail" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(label)}">'
        f"{line}{_drawn(data)}</svg>"
    )


def _across(data: CurveData) -> LinearScale:
    return LinearScale(float(data.first_step), float(data.last_step), _MARGIN, WIDTH - _MARGIN)


def _drawn(data: CurveData) -> str:
    """The norm on a logarithmic scale, and a mark at the top where gradients were broken."""
    across = _across(data)
    broken = np.unique(across.places(data.broken_steps.astype(np.float64)).round())
    marks = "".join(f'<path class="broken" d="M{place:.1f} 0v5"/>' for place in broken.tolist())
    return curve(across.places(data.steps.astype(np.float64)), _calm_scale(data.norm).places(data.norm), "norm") + marks


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
