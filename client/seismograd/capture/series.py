"""One optimizer's series of records, and the step that waits for its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

from torch import Tensor

from seismograd.capture.draft import Draft
from seismograd.capture.layout import Description, Layout
from seismograd.capture.numbering import Numbering
from seismograd.capture.pieces import Piece
from seismograd.capture.placement import Placement
from seismograd.capture.readback import Readback, Transfer
from seismograd.capture.stepwatch import OptimizerWatch
from seismograd.errors import OptionError
from seismograd.record import Catalog

Moving = tuple[list[object], Transfer]  # names of the values on their way, and the way


@dataclass(slots=True, eq=False)
class Held:
    """A finished step that waits for its loss, or for the next step to begin without one."""

    draft: Draft
    step: int
    catalog_version: int
    columns: int
    transfers: list[Moving]
    on_host: bool


@dataclass(slots=True, eq=False)
class Logged:
    """What the user has said about a step."""

    loss: Tensor | float | None = None
    data: str | Tensor | None = None


class Series:
    """One optimizer's part of the session."""

    def __init__(self, index: int, watch: OptimizerWatch, first_step: int) -> None:
        self.index = index
        self.watch = watch
        self.numbering = Numbering(first_step)
        self.readback = Readback()
        self.held: Held | None = None
        self.layout: Layout = watch.layout
        self.pieces: Sequence[Piece] | None = None  # what the columns are of in the catalog's words
        self.owns_rows = True  # no other process ships norms by parameter that could stand for ours
        self.flattened = False  # some columns are several parameters in one
        self.plain = False  # nothing of the above needs to be said in a draft
        self.catalog_version = 0
        self._versions: dict[Sequence[Piece] | None, int] = {}
        self._newest = -1

    def describe(
        self, placement: Placement, descriptions: Mapping[int, Description], pieces: Sequence[Piece] | None = None
    ) -> Catalog:
        """The catalog from now on: the layout as it is, norms of such pieces (None = the parameters themselves).

        What was described before has its old version, so that a job which clips now and then does not make a new one
        every time.
        """
        layout = self.watch.layout
        if layout is not self.layout:
            self.layout = layout
            self._versions.clear()
        if pieces is None and layout.sharded:
            pieces = layout.own_pieces
        if pieces not in self._versions:
            self._newest += 1
            self._versions[pieces] = self._newest
        self.catalog_version = self._versions[pieces]
        self.pieces = pieces
        self.owns_rows = placement.ships(layout.parameters, pieces)
        self.flattened = placement.flattens(layout.parameters)
        self.plain = self.owns_rows and not self.flattened
        return layout.catalog(self.index, self.catalog_version, placement, descriptions, pieces)


def host_or_copy(loss: object) -> Tensor | float:
    """A number on the host at once; on a device a copy, since the job may go on to change its tensor."""
    if type(loss) is float:
        return loss
    if not isinstance(loss, Tensor):
        if not isinstance(loss, SupportsFloat):  # texts are none
            raise OptionError(f"loss: a {type(loss).__name__} is no number; log a float or a tensor of one element")
        return float(loss)
    if loss.numel() != 1 or loss.is_complex():
        raise OptionError(
            f"loss: a tensor of {loss.numel()} elements of {loss.dtype} is not one real number; log loss.mean()"
        )
    loss = loss.detach()
    return float(loss) if loss.device.type == "cpu" else loss.clone()
