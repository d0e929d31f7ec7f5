"""Which layer moved first: every layer against its own median before the onset, in octaves. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seismograd_server.model import Bool, Float64, Quantity
from seismograd_server.reading.history import LayerWindow, NonfiniteHit
from seismograd_server.report.contents import LayerRise

# Three octaves, eight times: ordinary scatter of a layer's norm stays within two.
_OUT_OF_RANGE = 3.0
# Modules that apply one matrix again and again.
_RECURRENT = frozenset({"RNN", "RNNCell", "LSTM", "LSTMCell", "GRU", "GRUCell"})
# A layer has left its range when this share of the following steps is out of it too.
_STAYED = 0.5


def rising_layers(
    window: LayerWindow, onset: int | None, hits: Sequence[NonfiniteHit], octaves: Float64, *, named: str | None = None
) -> tuple[LayerRise, ...]:
    """The layers that left their range at or after the onset, in the order in which they did.

    Among those of one step, the one that the detectors name stands first, then the one that is farthest out.
    """
    if onset is None:
        return ()
    broken = _first_nonfinite(hits, int(window.steps[0]), int(window.steps[-1])) if len(window.steps) else {}
    found: list[LayerRise] = []
    for layer, name in enumerate(window.names):
        row = _first_lasting(octaves[:, layer], window.steps >= onset)
        hit = broken.get(name)
        if row is None and hit is None:
            continue
        step = hit if row is None else int(window.steps[row])
        if hit is not None and step is not None:
            step = min(step, hit)
        own = octaves[:, layer]
        finite = own[np.isfinite(own)]
        found.append(
            LayerRise(
                order=0,
                name=name,
                step=int(step or 0),
                octaves=float(own[row]) if row is not None else float("nan"),
                peak_octaves=float(finite.max()) if len(finite) else float("nan"),
                nonfinite_step=hit,
                module_type=window.module_types[layer],
            )
        )
    found.sort(
        key=lambda rise: (
            rise.step,
            rise.name != named,
            rise.nonfinite_step != rise.step,
            -np.nan_to_num(rise.octaves),
        )
    )
    return tuple(
        LayerRise(order, rise.name, rise.step, rise.octaves, rise.peak_octaves, rise.nonfinite_step, rise.module_type)
        for order, rise in enumerate(found, start=1)
    )


def _first_nonfinite(hits: Sequence[NonfiniteHit], first: int, last: int) -> dict[str, int]:
    steps: dict[str, int] = {}
    for hit in hits:
        if hit.layer and first <= hit.step <= last:
            steps[hit.layer] = min(hit.step, steps.get(hit.layer, hit.step))
    return steps


def _first_lasting(octaves: Float64, eligible: Bool) -> int | None:
    captured = np.isfinite(octaves)
    out = captured & (octaves >= _OUT_OF_RANGE) & eligible
    for row in np.flatnonzero(out).tolist():
        following = out[row : row + 4][captured[row : row + 4]]
        if following.mean() >= _STAYED:
            return int(row)
    return None


def recurrent_gain(window: LayerWindow, onset: int | None) -> tuple[str, float, float] | None:
    """(layer, gain before, gain since) of the recurrent matrix whose spectral gain rose most; None = none was sampled.

    Before: the median of the samples before the onset, or the first one. Since: the largest from there on.
    """
    gains = window.sampled.get(Quantity.SPECTRAL_GAIN)
    if gains is None:
        return None
    found = []
    for layer, name in enumerate(window.names):
        rows = np.flatnonzero(np.isfinite(gains[:, layer]))
        if window.module_types[layer] not in _RECURRENT or not len(rows):
            continue
        own, early = gains[rows, layer].astype(np.float64), window.steps[rows] < (onset or 0)
        before = float(np.median(own[early])) if early.any() else float(own[0])
        found.append((name, before, float(own[~early].max()) if not early.all() else before))
    return max(found, key=lambda each: each[2] / each[1] if each[1] > 0.0 else 0.0, default=None)


def depth_growth(window: LayerWindow, onset: int | None) -> tuple[float, float, int] | None:
    """(factor per layer from last to first, goodness of fit, number of layers) of the RMS gradient at the onset.

    Over weight matrices of known depth, on the three steps from the onset; None below six of them.
    """
    if onset is None:
        return None
    layers = [
        layer
        for layer, name in enumerate(window.names)
        if window.depths[layer] >= 0 and name.endswith("weight") and window.numels[layer] > 0
    ]
    rows = np.flatnonzero(window.steps >= onset)[:3]
    if len(layers) < 6 or not len(rows):
        return None
    norms = window.norms[np.ix_(rows, np.array(layers))].astype(np.float64)
    usable = np.isfinite(norms) & (norms > 0)
    # A layer counts when all of these steps have a norm of it; then the median needs no exceptions.
    level = np.median(np.log2(np.where(usable, norms, 1.0)), axis=0)
    level = np.where(usable.all(axis=0), level, np.nan)
    level -= 0.5 * np.log2(np.array([window.numels[layer] for layer in layers], np.float64))
    depth = np.array([window.depths[layer] for layer in layers], np.float64)
    good = np.isfinite(level)
    if good.sum() < 6 or np.ptp(depth[good]) == 0:
        return None
    slope, _ = np.polyfit(depth[good], level[good], 1)
    correlation = float(np.corrcoef(depth[good], level[good])[0, 1])
    return float(2.0**-slope), correlation**2, int(good.sum())
