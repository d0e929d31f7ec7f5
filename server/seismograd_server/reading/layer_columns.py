"""One quantity of the layers over any range of steps, in few columns that are made as the steps are read. Blocks.

Only what summaries do not have is read like this: of the gradient's norms they tell at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seismograd_server.model import ClosedBlock, Float32, Int64, Quantity, Run
from seismograd_server.reading.layers import LayerQuantity, composed_blocks
from seismograd_server.store.database import Database

_SAMPLED = {LayerQuantity.MAX_ABS: Quantity.MAX_ABS, LayerQuantity.SPECTRAL_GAIN: Quantity.SPECTRAL_GAIN}


@dataclass(frozen=True, slots=True, eq=False)
class LayerColumns:
    """Columns of consecutive steps, each with the largest value of every layer in it; NaN = sampled nowhere in it."""

    names: tuple[str, ...]
    steps: Int64  # [k], the first one of each column
    values: Float32  # [k, l]


class LayerThinning:
    """Steps of a range under its last layout, made to few columns: what is held is bounded however long the range is.

    Every column has as many steps as the others, but for the last one: one, and twice as many whenever there would
    otherwise be too many columns.
    """

    def __init__(self, quantity: LayerQuantity, rank: int, columns: int, most_values: int) -> None:
        """`rank` says whose local gradients are meant; at most so many columns, of so many values together."""
        self._quantity = quantity
        self._rank = rank
        self._columns = columns
        self._most_values = most_values
        self._found: LayerColumns | None = None
        self._each = 1  # steps a column
        self._last = 0  # steps in the last column
        self._captured = False

    def read(self, database: Database, run: Run, optimizer: int, first_step: int, last_step: int) -> Iterator[int]:
        """Read a range; after each block it gives the number of its steps, for whoever may want to stop."""
        for block in composed_blocks(database, run, optimizer, first_step, last_step, compare=False):
            self.add(block)
            yield block.count

    def add(self, block: ClosedBlock) -> None:
        """Take in the next steps; those before them that had other layers are forgotten."""
        names = block.layout.names
        if not names:
            return  # no record of these steps is left
        found, values = self._found, _values_of(block, self._quantity, self._rank)
        if found is None or found.names != names:
            found = LayerColumns(names, block.steps[:0], values[:0])
            self._each, self._last, self._captured = 1, 0, False
        self._captured = self._captured or bool(np.isfinite(block.layer_norms).any())
        held = len(found.steps)
        # The first ones fill up the last column.
        places = np.arange(block.count) + self._last + max(held - 1, 0) * self._each
        steps, values = np.concatenate((found.steps, block.steps)), np.concatenate((found.values, values))
        columns = np.concatenate((np.arange(held), places // self._each))
        count = int(places[-1]) + 1
        while int(columns[-1]) >= max(1, min(self._columns, self._most_values // len(names))):
            columns, self._each = columns // 2, self._each * 2
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        self._found = LayerColumns(names, steps[starts], np.fmax.reduceat(values, starts, axis=0))
        self._last = count - int(columns[-1]) * self._each

    @property
    def found(self) -> LayerColumns | None:
        """What has been read so far; None = no layer was captured in it."""
        return self._found if self._captured else None


def _values_of(block: ClosedBlock, quantity: LayerQuantity, rank: int) -> Float32:
    """One quantity, float32[n, l]; NaN = not sampled."""
    if quantity is LayerQuantity.GRAD_NORM:
        return block.layer_norms
    if quantity is LayerQuantity.WEIGHT_NORM:
        return block.weight_norms
    if quantity is LayerQuantity.UPDATE_NORM:
        return block.update_norms
    values = np.full(block.layer_norms.shape, np.nan, np.float32)
    if quantity is LayerQuantity.LOCAL_GRADIENT_NORM:
        for each in block.rank_layers:
            if each.rank == rank:
                values[each.rows] = each.norms
        return values
    return block.sampled.get(_SAMPLED[quantity], values)
