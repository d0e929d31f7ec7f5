"""What the parameters are called, and in which order their modules run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from seismograd.capture.forward_order import ForwardOrder
from seismograd.capture.layout import Description, describe
from seismograd.names import MOST_BYTES, fitting

_log = logging.getLogger("seismograd")

_SHOWN = 40  # characters of a long name at either end


class Naming:
    """Descriptions of a model's parameters. `tied`: a name for each declared group -> the parameters in it."""

    def __init__(self, model: nn.Module | None, tied: Mapping[str, Sequence[str]]) -> None:
        self._model = model
        self._order = ForwardOrder(model)
        # FSDP may hold others in their places later, when the first step is made.
        self._first = describe(model, {})
        self._groups = {name: group for group, names in tied.items() for name in names}
        self._say_what_does_not_fit()

    def current(self) -> dict[int, Description]:
        """What is known by now, by `id(parameter)`; looks no further at the order of modules."""
        known = self._first | describe(self._model, self._order.places)
        self._order.close()
        return {
            place: replace(each, name=fitting(each.name), tied_group=self._groups.get(each.name, each.tied_group))
            for place, each in known.items()
        }

    def _say_what_does_not_fit(self) -> None:
        changed = [each.name for each in self._first.values() if fitting(each.name) != each.name]
        if changed:
            _log.warning(
                "model: %d of its parameters have names that the server does not take, such as %r; they are shown as"
                " %r and alike; give modules names of printable characters, so that it is %d bytes at most together",
                len(changed),
                _shortened(changed[0]),
                _shortened(fitting(changed[0])),
                MOST_BYTES,
            )

    def close(self) -> None:
        """Removes the hooks on the model."""
        self._order.close()


def _shortened(name: str) -> str:
    """Enough of a name to find it in the model."""
    return name if len(name) <= 2 * _SHOWN else f"{name[:_SHOWN]}...{name[-_SHOWN:]}"
