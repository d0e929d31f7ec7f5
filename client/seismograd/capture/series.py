"""One optimizer's series of records, and the step that waits for its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from seismograd.capture.habit import ForwardPasses
from seismograd.capture.held import Held, Logged
from seismograd.capture.layout import Description, Layout
from seismograd.capture.numbering import Numbering
from seismograd.capture.pieces import Piece
from seismograd.capture.placement import Placement
from seismograd.capture.plain import PlainSteps, can_be_plain
from seismograd.capture.readback import Readback
from seismograd.capture.stepwatch import OptimizerWatch
from seismograd.capture.together import JointWatch
from seismograd.outbox.sender import Sender
from seismograd.record import Catalog


class Series:
    """One optimizer's part of the session."""

    def __init__(self, index: int, watch: OptimizerWatch, first_step: int, passes: ForwardPasses) -> None:
        self.index = index
        self.passes = passes  # of all series together
        self.watch = watch
        self.numbering = Numbering(first_step)
        self.readback = Readback()
        self.held: Held | None = None
        self.plain: PlainSteps | None = None  # the short way, once there is one
        self.logged: Logged | None = None  # what was said before the step that it belongs to
        self.last_step: int | None = None  # the latest step, as it was numbered when it was made or released
        self.last_has_loss = False
        self.at_boundary: Callable[[], None] | None = None  # called in the training thread after each step
        self.layout: Layout = watch.layout
        self.pieces: Sequence[Piece] | None = None  # what the columns are of in the catalog's words
        self.owns_rows = True  # no other process ships norms by parameter that could stand for ours
        self.flattened = False  # some columns are several parameters in one
        self.ships_plainly = False  # nothing of the above needs to be said in a draft
        self.catalog_version = 0
        self._versions: dict[Sequence[Piece] | None, int] = {}
        self._newest = -1

    @property
    def waits(self) -> bool:
        """Whether a step waits for its loss."""
        return self.held is not None or (self.plain is not None and self.plain.held)

    @property
    def under_way(self) -> bool:
        """Whether a step has begun and not ended."""
        return self.watch.in_step or (isinstance(self.watch, JointWatch) and self.watch.under_way)

    @property
    def last_made(self) -> int | None:
        """Number of the step made last; None before the first one."""
        return self.last_step if self.held is None else self.held.step

    def be_plain(self, sender: Sender, *, plainly: bool, waits: bool, logs_after: bool) -> None:
        """The next steps may be plain, if that can be. `waits`: a loss may follow them; `logs_after`: some it does."""
        if self.plain is None or self.plain.columns != (self.layout, self.catalog_version):
            self.plain = self.watch.plain = None
            express = sender.express(self.index)
            if express is None or not (plainly and self.ships_plainly and can_be_plain(self.watch)):
                return
            self.plain = PlainSteps(self, express)
        self.plain.waits, self.plain.logs_after = waits, logs_after
        self.watch.be_plain(self.plain)

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
        self.ships_plainly = self.owns_rows and not self.flattened
        return layout.catalog(self.index, self.catalog_version, placement, descriptions, pieces)
