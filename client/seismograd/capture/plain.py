"""Plain steps: the short way of what nearly every step on a host is.

    gradients --row (`row.py`)--.
    norms that a clip has taken -+--> the bytes of a record (`template.py`) --> ring, sender (`express.py`)

Between two steps nothing of ours is in the processor's caches. Each line of Python then costs about a microsecond, ten
times what it does in a loop, and so does every object that is made or looked at. A *plain* step is one of which a
record says nothing but a float32 norm per parameter, finite and zero only where all of the gradient is, the learning
rate, what a clip did, how long it took, and a loss: all of that is written over the bytes of the last one, without
making the objects of the long way (`Draft`, `Held`, `PendingStep`).

Whatever is not plain takes the long way, and what turns out not to be plain later on, because the job says more about
it, is unfolded into it. Both ways give the same bytes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seismograd.capture.draft import Draft
from seismograd.capture.habit import nodes_made
from seismograd.capture.held import Held, host_or_copy
from seismograd.capture.norms import HIGHEST_BYTES, USUAL, Census
from seismograd.capture.parts import Part
from seismograd.capture.row import NormRow
from seismograd.outbox.express import Express
from seismograd.outbox.packing import Heading
from seismograd.outbox.template import Template
from seismograd.record import NormSource, Quantity, RecordFlag

if TYPE_CHECKING:
    from seismograd.capture.series import Series
    from seismograd.capture.stepwatch import OptimizerWatch

_clock, _wall = time.perf_counter, time.time
_INFINITE = float("inf")
# In a row: gradients that are sparse, broken or of another type mostly stay so, and trying costs their norms.
_MOST_FAILURES = 8
# With or without a clip that bites, with or without a loss; another branch has its own.
_MOST_TEMPLATES = 6
# Models of several heads have as many sets of gradients, in turn; to make a row costs a fifth of a millisecond.
_MOST_ROWS = 8

_BARE: tuple[Quantity, ...] = (Quantity.LEARNING_RATE, Quantity.STEP_SECONDS, Quantity.CAPTURE_SECONDS)
_WITH_CLIP: tuple[Quantity, ...] = (Quantity.CLIP_THRESHOLD, Quantity.REPORTED_NORM, *_BARE)


class PlainSteps:
    """The plain steps of one series, one at a time, as long as its columns are what they were.

    `begins` and `ended` are called around a step, `log` or `release` may follow. `held`: it waits for its loss.
    """

    __slots__ = (
        "_absent",
        "_clip",
        "_express",
        "_failures",
        "_frozen",
        "_fused",
        "_norms",
        "_present",
        "_rate",
        "_row",
        "_rows",
        "_series",
        "_templates",
        "_time",
        "_took",
        "_values",
        "_watch",
        "columns",
        "held",
        "logs_after",
        "step",
        "under_way",
        "until",
        "waits",
    )

    def __init__(self, series: Series, express: Express) -> None:
        self._series, self._watch, self._express = series, series.watch, express
        self._frozen = series.layout.frozen
        # A fused optimizer unscales by itself and may decide to skip, where a loss scaler has given it a scale.
        self._fused = bool(getattr(series.watch.optimizer, "_step_supports_amp_scaling", False))
        self._rows: dict[bytes, NormRow] = {}  # by which parameters have a gradient
        self._sort_out()
        self._norms: bytes | bytearray = self._row.data
        self._templates: dict[tuple[int, bool | None, bool], Template] = {}
        self._failures = 0
        self._clip: tuple[float, float] | None = None  # threshold, and the total norm that it used
        self._rate = self._time = self._took = 0.0
        self._values: tuple[float, ...] = ()
        self.columns = (series.layout, series.catalog_version)  # what it was made for
        self.under_way = False  # its step has begun and not ended
        self.held = False
        self.step = 0
        self.waits = False  # a loss may follow the step
        self.logs_after = False  # it does, if not each step
        self.until = 0  # count of the step for which something may have to be sampled

    def begins(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
        """The optimizer is about to step. False = as far as can be seen it is no plain step; nothing was done."""
        began = _clock()
        series, watch = self._series, self._watch
        self.under_way = False  # a step that raised has not ended
        if (
            len(arguments) != 1
            or keywords
            or (not self.logs_after and (self.held or series.held is not None))
            or watch.scale is not None
            or self._failures >= _MOST_FAILURES
            or (series.logged is not None and not series.logged.is_plain)
            or (self._frozen and any(parameter.grad is not None for parameter in self._frozen))
            or (self._fused and getattr(watch.optimizer, "grad_scale", None) is not None)
        ):
            return False
        try:
            if self.held or series.held is not None:
                watch.begins(watch)  # a job that logs now and then has not logged the step before
            groups = watch.optimizer.param_groups
            rate = groups[0]["lr"]
            if type(rate) is not float or not series.layout.is_of(groups):
                return False
            harvest = watch.harvest
            if harvest.parts or harvest.clip is not None:
                taken = harvest.take_plain()
                if taken is None:
                    return False
                row, self._clip = taken
                self._norms = row.tobytes()
            else:
                try:
                    self._measure()
                except (TypeError, AttributeError):  # other ones than before have no gradient
                    self._sort_out()
                    self._measure()
                if self._absent and any(parameter.grad is not None for parameter in self._absent):
                    self._sort_out()
                    self._measure()
                norms = self._row.data
                unusual = norms[HIGHEST_BYTES].translate(None, USUAL)
                if len(unusual) != len(self._absent) and not self._row_is_plain():  # the absent ones are zero
                    return self._fails()
                self._norms, self._clip = norms, None
        except Exception:  # noqa: BLE001 - the long way finds out what is unusual here, and copes with it
            return self._fails()
        self._failures = 0
        self._rate, self._time = rate, _wall()
        self.under_way = watch.in_step = True
        self._took = _clock() - began
        return True

    def _sort_out(self) -> None:
        """Which parameters have a gradient now; the norm of the others is zero."""
        parameters = self._series.layout.parameters
        self._present = [parameter for parameter in parameters if parameter.grad is not None]
        self._absent = [parameter for parameter in parameters if parameter.grad is None]
        having = bytes(parameter.grad is not None for parameter in parameters)
        row = self._rows.get(having)
        if row is None:
            if len(self._rows) >= _MOST_ROWS:
                self._rows.clear()
            row = NormRow([None if parameter.grad is None else parameter.shape for parameter in parameters])
            self._rows[having] = row
        self._row = row

    def _measure(self) -> None:
        self._row.measure([parameter.grad for parameter in self._present])  # type: ignore[misc]  # none is missing

    def _row_is_plain(self) -> bool:
        """The exact look: every norm is finite, and zero only where the gradient is, or is missing."""
        norms = self._row.row.tolist()
        return sum(norms) < _INFINITE and not any(
            norm == 0.0 and parameter.grad is not None and bool(parameter.grad.any())
            for parameter, norm in zip(self._series.layout.parameters, norms, strict=True)
        )

    def _fails(self) -> bool:
        self._failures += 1
        return False

    def ended(self) -> None:
        """The optimizer has made the step that is under way."""
        began = _clock()
        series, watch, clip = self._series, self._watch, self._clip
        self.under_way = watch.in_step = False
        self.step = step = series.numbering.begin_step()
        self._values = (self._rate, began - (watch.last_end or began), watch.cost + self._took)
        if clip is not None:
            self._values = clip + self._values
        watch.last_end = began
        watch.count += 1
        series.last_step = step
        series.passes.stepped((series.index, nodes_made()))
        if series.logged is not None:
            logged, series.logged = series.logged, None
            self.release(logged.loss)  # type: ignore[arg-type]  # it is plain
        elif self.waits:
            self.held = True
            series.last_has_loss = False
            watch.remember_gradient()
        else:
            watch.probe = None  # to remember one costs microseconds, and nobody has asked for it so far
            self.release(None)
        sampled_until = self._express.recorder.sample_until
        whole = sampled_until is not None and step < sampled_until
        if whole or watch.count >= self.until:
            watch.look_ahead(whole=whole)
        watch.cost = took = _clock() - began
        watch.hook_seconds += took + self._took
        watch.hook_calls += 2
        if series.at_boundary is not None:
            series.at_boundary()

    def log(self, loss: Tensor | float) -> bool:
        """The loss of the step that waits for it. False = it is said in an unusual way."""
        number = host_or_copy(loss)
        if type(number) is not float:
            return False
        self.release(number)
        return True

    def release(self, loss: float | None) -> None:
        """Everything is known of the step: into the ring with it, and on to the sender."""
        self.held = False
        self._series.last_has_loss = loss is not None
        values, clip = self._values, self._clip
        clipped = None
        if loss is not None:
            values += (loss,)
        if clip is not None:
            threshold, total = clip
            coefficient = min(threshold / (total + 1e-6), 1.0)
            clipped = coefficient < 1.0
            values += (coefficient,)
        branch, sequence, step = self._series.numbering.settle(self.step)
        key = branch, clipped, loss is not None
        template = self._templates.get(key)
        if template is None:
            template = self._new_template(key)
        self._express.put(sequence, step, template.fill(sequence, step, self._time, values, self._norms))

    def unfold(self) -> Held:
        """The step that waits, for the long way: something is said of it that is not plain."""
        self.held = False
        layout, version = self.columns
        return Held(self._draft(self._values), self.step, version, len(layout), [], on_host=True)

    def give_up(self) -> Draft:
        """The same for a step that is under way."""
        self.under_way = False
        self._watch.cost += self._took
        clip = () if self._clip is None else self._clip
        return self._draft((*clip, self._rate))

    def _draft(self, values: tuple[float, ...]) -> Draft:
        """The step as the long way has it, with as many of its numbers as are known."""
        layout, _ = self.columns
        row = np.frombuffer(self._norms, np.float32).copy()
        part = Part(None, torch.from_numpy(row), layout.parameters, None)
        part.censuses = {column: Census(0.0, 0, 0, 0) for column in np.flatnonzero(row == 0.0).tolist()}
        source, quantities = NormSource.OPTIMIZER_STEP, _BARE
        if self._clip is not None:
            source, quantities = NormSource.CLIP, _WITH_CLIP
        return Draft([part], source, RecordFlag(0), self._time, scalars=dict(zip(quantities, values, strict=False)))

    def _new_template(self, key: tuple[int, bool | None, bool]) -> Template:
        branch, clipped, with_loss = key
        layout, version = self.columns
        if len(self._templates) >= _MOST_TEMPLATES:
            self._templates.clear()
        heading = Heading(self._series.index, branch, 0, 0, 0.0, version, len(layout))
        quantities = _BARE if clipped is None else _WITH_CLIP
        if with_loss:
            quantities += (Quantity.LOSS,)
        source, flags = NormSource.OPTIMIZER_STEP, RecordFlag(0)
        if clipped is not None:
            source, flags = NormSource.CLIP, RecordFlag.CLIPPED if clipped else RecordFlag(0)
            quantities += (Quantity.CLIP_COEFFICIENT,)
        template = self._templates[key] = Template(heading, source, flags, quantities)
        return template


def can_be_plain(watch: OptimizerWatch) -> bool:
    """Whether its steps are plain, as long as nothing unusual happens in them."""
    layout = watch.layout
    return (
        len(layout) > 0
        and layout.uniform
        and layout.device.type == "cpu"
        and all(parameter.dtype is torch.float32 for parameter in layout.parameters)
    )
