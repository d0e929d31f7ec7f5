"""What the parameters are called, and in which order their modules run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from seismograd.capture.forward_order import ForwardOrder
from seismograd.capture.layout import Description, describe


class Naming:
    """Descriptions of a model's parameters. `tied`: a name for each declared group -> the parameters in it."""

    def __init__(self, model: nn.Module | None, tied: Mapping[str, Sequence[str]]) -> None:
        self._model = model
        self._order = ForwardOrder(model)
        # FSDP may hold others in their places later, when the first step is made.
        self._first = describe(model, {})
        self._groups = {name: group for group, names in tied.items() for name in names}

    def current(self) -> dict[int, Description]:
        """What is known by now, by `id(parameter)`; looks no further at the order of modules."""
        known = self._first | describe(self._model, self._order.places)
        self._order.close()
        return {
            place: replace(each, tied_group=self._groups[each.name]) if each.name in self._groups else each
            for place, each in known.items()
        }

    def close(self) -> None:
        """Removes the hooks on the model."""
        self._order.close()
