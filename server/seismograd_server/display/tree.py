"""Layers as the rows of a picture: the modules of their names, as deep as there is room, each to be opened. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# More rows than a page shows without scrolling are no picture any more.
_ROWS = 32
# Where the next shallower modules would leave more than three quarters of the room empty, or be one alone, neighbours
# are put together.
_FEWEST_SHARE = 4


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One row: a layer, or some that follow each other in the model."""

    name: str  # of the layer, or of the module that they are of
    layers: tuple[int, ...]  # their indexes, rising

    @property
    def label(self) -> str:
        """The name, with the number of layers where there are several."""
        return self.name if len(self.layers) == 1 else f"{self.name} ({len(self.layers)})"


def layer_rows(
    names: Sequence[str], first: str | None = None, last: str | None = None, most: int = _ROWS
) -> list[LayerRow]:
    """At most so many rows over the layers from `first` to `last` (None or unknown = all), in the order of the model.

    Rows are modules, all to the same depth: the greatest at which there is room for all. Where even the outermost
    modules are too many, or the next ones too few, as in a model of a hundred blocks, neighbours are put together.

    >>> [row.label for row in layer_rows(["in.weight", "block.0.a", "block.0.b", "block.1.a", "block.1.b"], most=3)]
    ['in.weight', 'block.0 (2)', 'block.1 (2)']
    """
    places = list(range(len(names)))
    if first in names and last in names:
        start, end = sorted((names.index(first), names.index(last)))
        places = places[start : end + 1]
    rows = [LayerRow(names[place], (place,)) for place in places]
    depth = max((name.count(".") for name in names), default=0)
    while len(rows) > most and depth > 0:
        shallower = _modules(names, places, depth)
        if _FEWEST_SHARE * len(shallower) < most or len(shallower) == 1:
            return _neighbours(rows, most)
        rows, depth = shallower, depth - 1
    return rows if len(rows) <= most else _neighbours(rows, most)


def _modules(names: Sequence[str], places: list[int], depth: int) -> list[LayerRow]:
    """Neighbours whose names begin with the same `depth` parts, together."""
    rows: list[LayerRow] = []
    for place in places:
        name = names[place]
        module = ".".join(name.split(".")[:depth])
        before = rows[-1] if rows else None
        if before is not None and before.name == module:
            rows[-1] = LayerRow(module, (*before.layers, place))
        else:
            rows.append(LayerRow(module, (place,)))
    return [row if len(row.layers) > 1 else LayerRow(names[row.layers[0]], row.layers) for row in rows]


def _neighbours(rows: list[LayerRow], most: int) -> list[LayerRow]:
    """As many rows together as it takes."""
    size = -(-len(rows) // most)
    found = []
    for at in range(0, len(rows), size):
        some = rows[at : at + size]
        layers = tuple(place for row in some for place in row.layers)
        name = some[0].name if len(some) == 1 else _from_to(some[0].name, some[-1].name)
        found.append(LayerRow(name, layers))
    return found


def _from_to(first: str, last: str) -> str:
    """Two names in one, with what they have in common said once.

    >>> _from_to("decoder.layers.0.weight", "decoder.layers.3.weight"), _from_to("embedding", "block.2")
    ('decoder.layers.0 – 3', 'embedding – block.2')
    """
    head, tail = first.split("."), last.split(".")
    while min(len(head), len(tail)) > 1 and head[-1] == tail[-1]:
        head, tail = head[:-1], tail[:-1]
    shared = 0
    while shared < min(len(head), len(tail)) - 1 and head[shared] == tail[shared]:
        shared += 1
    return f"{'.'.join(head)} – {'.'.join(tail[shared:])}"
