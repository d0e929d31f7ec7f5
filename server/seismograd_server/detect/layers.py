"""Which layer rose first: a short memory of the quiet steps' layer norms, asked only when there is something to say."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.detect.facts import Step
from seismograd_server.detect.state import SETTING
from seismograd_server.model import Float32, Float64

# Sixteen rows, one every fourth quiet step: half a baseline window, at a cost that a thousand layers do not feel.
_ROWS = 16
_EVERY = 4
# By less than this, twice numpy's error at 2^127, the logarithm of a lesser norm may be the greater.
_DOUBT = np.array([[-(2.0**-15)], [2.0**-15]], dtype=np.float32)
# Between fewer layers no quartiles can be told apart.
_LEAST_LAYERS = 4


@dataclass(slots=True)
class LayerMemory:
    """float32[rows, l]: log2 of layer norms at quiet steps.

    Logarithms are worked out when somebody asks: of most rows nobody ever does.
    """

    rows: Float32 = field(default_factory=lambda: np.empty((_ROWS, 0), dtype=np.float32))
    next_row: int = 0
    filled: int = 0
    seen: int = 0
    fresh: list[Float32] = field(default_factory=list, metadata=SETTING)  # norms [k, l] that are not in `rows` yet

    def accept(self, step: Step) -> None:
        """Take in a quiet step."""
        self.seen += 1
        if self.seen % _EVERY != 1:
            return
        self.settle()
        norms = step.layer_norms
        if self.rows.shape[1] != len(norms):  # the first one, or another model from here on
            self.rows = np.full((_ROWS, len(norms)), np.nan, dtype=np.float32)
            self.next_row = self.filled = 0
        self.rows[self.next_row] = octaves(norms)
        self.next_row = (self.next_row + 1) % _ROWS
        self.filled = min(_ROWS, self.filled + 1)

    def accept_all(self, norms: Float32) -> None:
        """The same as `accept` for quiet steps, norms float32[k, l], of as many layers as in memory."""
        kept = self._kept_of(norms)
        self.seen += len(norms)
        if len(kept):
            self.fresh.append(kept.copy())  # a view would keep the block in memory
        while sum(map(len, self.fresh[1:])) >= _ROWS:  # what is written over unseen needs no logarithm
            self.next_row = (self.next_row + len(self.fresh.pop(0))) % _ROWS

    def settle(self) -> None:
        """Bring `rows` up to date."""
        if not self.fresh:
            return
        norms = np.concatenate(self.fresh)
        kept = norms[-_ROWS:]
        places = (self.next_row + len(norms) - len(kept) + np.arange(len(kept))) % _ROWS
        self.rows[places] = octaves(kept)
        self.next_row = (self.next_row + len(norms)) % _ROWS
        self.filled = min(_ROWS, self.filled + len(norms))
        self.fresh = []

    def range_with(self, norms: Float32) -> tuple[Float32, Float32] | None:
        """Two float32[l]: lowest and highest level of each layer in memory and in quiet steps to come; NaN = not known.

        `norms` as for `accept_all`. Whatever `usual` says within these steps lies in that range. None = it cannot be
        told, because some layer is known at times only.
        """
        self.settle()
        coming = self._kept_of(norms)
        if len(coming) > 2 and np.isfinite(greatest := np.maximum.reduce(coming)).all():
            # Two logarithms a layer instead of one a norm.
            coming_levels = octaves(np.stack((np.minimum.reduce(coming), greatest))) + _DOUBT
        else:
            coming_levels = octaves(coming)
        known = np.concatenate((self.rows[: self.filled], coming_levels))
        lowest: Float32 = np.minimum.reduce(known)
        highest: Float32 = np.maximum.reduce(known)
        unknown = np.isnan(lowest)
        if np.count_nonzero(unknown) and not np.isnan(known[:, unknown]).all():
            return None
        return lowest, highest

    def _kept_of(self, norms: Float32) -> Float32:
        """Those of the next quiet steps that are remembered."""
        return norms[-self.seen % _EVERY :: _EVERY]

    def rises(self, step: Step) -> Float32 | None:
        """float32[l]: octaves of each layer above its usual range; NaN = not known. None = nothing to compare with."""
        self.settle()
        if not self.filled or self.rows.shape[1] != len(step.layer_norms):
            return None
        known = self.rows[: self.filled]
        with np.errstate(invalid="ignore"):
            highest = np.fmax.reduce(known, axis=0)
            rises: Float32 = octaves(step.layer_norms) - highest
        return rises

    def usual(self, layers: int) -> Float64 | None:
        """float64[l]: median level of each layer over the quiet steps in memory, -Inf = zero; None = no memory."""
        self.settle()
        if not self.filled or self.rows.shape[1] != layers:
            return None
        known = self.rows[: self.filled].astype(np.float64)
        ordered = np.sort(known, axis=0)  # NaN last
        counts = np.count_nonzero(~np.isnan(known), axis=0)
        middle = np.maximum(0, (counts - 1) // 2)
        usual: Float64 = ordered[middle, np.arange(layers)]
        return usual

    def unevenness(self, step: Step) -> float:
        """Octaves between the quartiles of the layers' rises over their usual levels; Inf = cannot be told.

        A loss in another scale, or harder data, lifts the whole gradient. Weights that are being ruined change each
        layer's share of it, because a layer's gradient passes through the weights of others.
        """
        usual = self.usual(len(step.layer_norms))
        if usual is None:
            return math.inf
        with np.errstate(invalid="ignore"):
            rises = octaves(step.layer_norms) - usual
        rises = np.sort(rises[np.isfinite(rises)])
        count = len(rises)
        return float(rises[(3 * count) // 4] - rises[count // 4]) if count >= _LEAST_LAYERS else math.inf

    def leading(self, step: Step) -> tuple[str, float] | None:
        """Name the layer that is furthest above its usual range, and by how many octaves."""
        rises = self.rises(step)
        if rises is None:
            return None
        rises[~np.isfinite(rises)] = -np.inf
        layer = int(np.argmax(rises)) if len(rises) else 0
        rise = float(rises[layer]) if len(rises) else 0.0
        return (step.block.layout.names[layer], rise) if rise > 0.0 else None


def octaves(norms: Float32) -> Float32:
    """log2 of norms; -Inf where a norm is zero, NaN where it is unknown or not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        levels: Float32 = np.log2(norms)
    levels[levels == np.inf] = np.nan
    return levels
