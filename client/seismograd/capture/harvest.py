"""The norms of one step as they come in: from one clip, from several, from none, and whether they still hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seismograd.capture.layout import Layout
from seismograd.capture.parts import Part, make_part, measure, take_over
from seismograd.capture.readback import host_number
from seismograd.capture.registry import Clip, Norms
from seismograd.capture.sampling import Sampling
from seismograd.capture.suspicion import Suspicion
from seismograd.record import Float32, NormSource


class Taken(NamedTuple):
    """The norms of one step, complete."""

    parts: list[Part]
    source: NormSource
    clip: Clip | None


class Harvest:
    """Norms of the columns of one layout, between two steps; `sampling` may want to look at what is measured."""

    def __init__(self, layout: Layout, suspicion: Suspicion, sampling: Sampling) -> None:
        self._layout = layout
        self._suspicion = suspicion
        self._sampling = sampling
        self.parts: list[Part] = []
        self.clip: Clip | None = None
        self.tainted = False
        # Which part has the norm of a column: to ask every part would take a time for each two, where a job clips
        # parameter by parameter. One of all columns is alone, and not in here.
        self._part_of: dict[int, Part] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been measured since the last step."""
        return not self.parts

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was measured, nor clipped without a norm."""
        return not self.parts and self.clip is None

    def add(self, parameters: list[Tensor], gradients: list[Tensor], norms: Norms) -> None:
        """Takes the norms of gradients that are about to be changed; measures them when `norms` is None.

        `parameters` and `gradients` are aligned, as is `norms`; those without a column are ignored. What is added
        holds once `clipped()` was called.
        """
        layout = self._layout
        columns = None
        if not layout.is_exactly(parameters):
            owned = [place for place, parameter in enumerate(parameters) if id(parameter) in layout.column_of]
            if not owned:
                return
            if len(owned) < len(parameters):
                parameters, gradients = [parameters[place] for place in owned], [gradients[place] for place in owned]
                norms = chosen_norms(norms, owned)
            columns = [layout.column_of[id(parameter)] for parameter in parameters]
        if self.parts:
            left = self._places_left(columns)
            if not left:
                return
            if len(left) < len(parameters):
                columns = [place if columns is None else columns[place] for place in left]
                parameters, gradients = [parameters[place] for place in left], [gradients[place] for place in left]
                norms = chosen_norms(norms, left)
            self._drop_overlapping(columns)
        if not self.parts:
            self.clip, self.tainted = None, False  # of gradients that are gone
        fresh = self._parts_of(parameters, gradients, columns, norms)
        if (examine := self._sampling.examine) is not None:
            examine(fresh)
        self._keep(fresh)

    def inherit(self, old: Harvest) -> None:
        """Goes on from the harvest of another layout: the gradients that it has measured may have been scaled since."""
        self.clip = old.clip
        if not old.tainted and all(part.move_to(self._layout) for part in old.parts):
            self._keep(old.parts)

    def _keep(self, parts: list[Part]) -> None:
        self.parts += parts
        for part in parts:
            self._part_of.update(dict.fromkeys(part.columns or (), part))

    def _parts_of(
        self, parameters: list[Tensor], gradients: list[Tensor], columns: list[int] | None, norms: Norms
    ) -> list[Part]:
        layout, suspects = self._layout, self._suspicion.columns
        if norms is None:
            return measure(layout, parameters, columns, suspects)
        if isinstance(norms, Tensor):
            return [make_part(parameters, gradients, columns, norms, suspects)]
        return take_over(layout, parameters, gradients, columns, norms, suspects=suspects)

    def add_gradients(self, gradients: list[Tensor], norms: Norms) -> None:
        """The same for tensors that may or may not be gradients of ours."""
        owners = {id(parameter.grad): parameter for parameter in self._layout.parameters if parameter.grad is not None}
        places = [place for place, gradient in enumerate(gradients) if id(gradient) in owners]
        if not places:
            return
        if len(places) < len(gradients):
            norms = chosen_norms(norms, places)
        found = [gradients[place] for place in places]
        self.add([owners[id(gradient)] for gradient in found], found, norms)
        for part in self.parts:
            part.settle()

    def clipped(self, parameters: list[Tensor], clip: Clip) -> Clip | None:
        """The gradients of these parameters have been changed by a clip. Returns what is new about it."""
        columns: set[int] | None = None
        if not self._layout.is_exactly(parameters):
            columns = {self._layout.column_of[id(p)] for p in parameters if id(p) in self._layout.column_of}
            if not columns:
                return None
        for part in self._having(columns):
            part.renew()
        if self.clip is not None:
            return None  # a second clip of what the first has scaled
        if isinstance(clip.total, Tensor):
            # The caller gets this very tensor and may change it.
            total = clip.total if clip.total.device.type == "cpu" else clip.total.detach().clone()
            clip = clip._replace(total=host_number(total))
        self.clip = clip
        return clip

    def gradients_changed(self) -> None:
        """Norms taken so far are not those of the gradients any more, although no version counter says so."""
        self.tainted = self.tainted or bool(self.parts)

    def forget(self) -> None:
        """Begins anew."""
        self.parts, self.clip, self.tainted = [], None, False
        self._part_of.clear()

    def take_plain(self) -> tuple[Float32, tuple[float, float]] | None:
        """Norms of all columns, threshold and total of the clip that took them, if they are plain and still hold."""
        if len(self.parts) != 1 or self.tainted:
            return None
        part, clip = self.parts[0], self.clip
        if clip is None or clip.threshold is None or type(clip.total) is not float:
            return None
        if part.row is None or not part.is_plain or not part.holds():
            return None
        row = part.row
        if part.columns is not None:
            clipped = set(part.columns)
            if any(p.grad is not None for column, p in enumerate(self._layout.parameters) if column not in clipped):
                return None
            row = np.zeros(len(self._layout), np.float32)  # a parameter without a gradient contributes nothing
            row[part.columns] = part.row
        self.forget()
        return row, (clip.threshold, clip.total)

    def take(self) -> Taken:
        """Completes the norms for the step that is about to be made, and begins anew."""
        layout, parts, clip, tainted = self._layout, self.parts, self.clip, self.tainted
        self.forget()
        if not parts and clip is None:
            return Taken(self._measure(None), NormSource.OPTIMIZER_STEP, None)
        if len(parts) == 1 and parts[0].columns is None and not tainted and parts[0].holds():
            return Taken(parts, NormSource.OPTIMIZER_STEP if clip is None else NormSource.CLIP, clip)
        if not parts or tainted or not all(part.holds() for part in parts):
            return Taken(self._measure(None), NormSource.POST_MODIFICATION, clip)
        if all(part.columns is not None for part in parts):
            covered = {column for part in parts for column in part.columns or ()}
            rest = [column for column in range(len(layout)) if column not in covered]
            parts += self._measure(rest) if rest else []
        return Taken(parts, NormSource.OPTIMIZER_STEP if clip is None else NormSource.CLIP, clip)

    def _measure(self, columns: list[int] | None) -> list[Part]:
        everything = self._layout.parameters
        chosen = everything if columns is None else [everything[column] for column in columns]
        parts = measure(self._layout, chosen, columns, self._suspicion.columns)
        if (examine := self._sampling.examine) is not None:
            examine(parts)
        for part in parts:
            part.fresh = None  # taken for the step at once: nobody will ask whether they hold
        return parts

    def _having(self, columns: Collection[int] | None) -> list[Part]:
        """The parts that have norms of some of these columns; None = of any."""
        if columns is None or (self.parts and self.parts[0].columns is None):
            return self.parts
        parts = self._part_of
        return list({id(parts[column]): parts[column] for column in columns if column in parts}.values())

    def _places_left(self, columns: Sequence[int] | None) -> Sequence[int]:
        """Places in `columns` whose norms are not known yet, or no longer: a clip in a clip, a second clip."""
        held: set[int] = set()
        for part in () if self.tainted else self._having(columns):
            if part.holds():
                if part.columns is None:
                    return ()
                held.update(part.columns)
        owned = range(len(self._layout)) if columns is None else columns
        return [place for place, column in enumerate(owned) if column not in held]

    def _drop_overlapping(self, columns: Collection[int] | None) -> None:
        overlapping = self._having(columns)
        if not overlapping:
            return
        for part in overlapping:
            if columns is not None and part.columns is not None and not set(part.columns) <= set(columns):
                self.tainted = True  # the rest of that part was scaled already and cannot be measured any more
            for column in part.columns or ():
                self._part_of.pop(column, None)
        gone = set(map(id, overlapping))
        self.parts = [part for part in self.parts if id(part) not in gone]


def chosen_norms(norms: Norms, places: Sequence[int]) -> Norms:
    """Those of some places."""
    if norms is None:
        return None
    chosen = [norms[place] for place in places]
    return torch.stack(chosen) if isinstance(norms, Tensor) else chosen  # type: ignore[arg-type]  # none is None there
