"""All watched optimizers of one monitor: step numbers, the loss that belongs to a step, the way to the sender."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seismograd.capture import registry
from seismograd.capture.budget import Budget, CaptureShare
from seismograd.capture.clip import ClipInterception
from seismograd.capture.draft import Draft, send
from seismograd.capture.flat import is_flattening
from seismograd.capture.flat_clip import FlatClipInterception
from seismograd.capture.guard import Guard
from seismograd.capture.habit import ForwardPasses, nodes_made
from seismograd.capture.held import Held, Moving
from seismograd.capture.identity import Identity, optimizer_info
from seismograd.capture.naming import Naming
from seismograd.capture.oddities import say_what_is_odd
from seismograd.capture.pending import PendingStep
from seismograd.capture.pieces import Piece
from seismograd.capture.placement import Placement, is_distributed, placement_of
from seismograd.capture.readback import RingFullError, capturing
from seismograd.capture.reported import ReportedSteps, ReportedWatch
from seismograd.capture.said import Said
from seismograd.capture.scaler import ScalerInterception
from seismograd.capture.series import Series
from seismograd.capture.stepwatch import OptimizerWatch
from seismograd.capture.together import JointWatch, step_together
from seismograd.capture.wrapped import innermost
from seismograd.options import Options
from seismograd.outbox.extras import HookHealth
from seismograd.outbox.packing import Heading
from seismograd.outbox.sender import Sender
from seismograd.record import RecordFlag

# A job that has not logged a loss after any of its first steps logs before them or never: nothing is waited for, until
# one comes after a step all the same.
_STOP_WAITING_AFTER = 20


class Session:
    """What `watch()` begins. Its public methods may raise: the monitor stops that.

    A step's record goes to the sender when its loss has been logged, or when the next step begins without one; at once
    where no loss is to be expected, so that a process that is killed loses no step that has ended. Which step a call of
    `log` belongs to: `said.py`.
    """

    when_forgotten: Callable[[], object] | None = None  # called when this is freed without an end

    def __init__(
        self,
        model: nn.Module | None,
        optimizers: Sequence[torch.optim.Optimizer],
        options: Options,
        sender: Sender,
        guard: Guard,
        *,
        config: object = None,
        first_step: int = 0,
    ) -> None:
        self._model = model
        self._options = options
        self._captures_layers = options.capture == "layers"
        self._sender = sender
        self._config = config
        self._optimizers = [innermost(optimizer) for optimizer in optimizers]
        self._guard = guard
        self._series: list[Series] = []
        self._ordinal = registry.next_monitor()
        self._identity: Identity | None = None
        self._placement = Placement()
        self._naming = Naming(model, options.tied)
        self._share = CaptureShare()
        self._steps_without_loss = 0
        try:
            self._install(first_step)
        except BaseException:
            self._uninstall()  # half a watch is worse than none
            raise

    def _install(self, first_step: int) -> None:
        groups = [self._optimizers] if step_together(self._optimizers) else [[each] for each in self._optimizers]
        passes = ForwardPasses()
        for index, group in enumerate(groups):
            self._series.append(Series(index, self._watch(group, len(groups)), first_step, passes))
        self._said = Said(self._series, self._guard, self._release)
        self._by_watch = {id(series.watch): series for series in self._series}
        interceptions: list[Callable[[], registry.Interception]] = [ClipInterception, ScalerInterception]
        if self._model is not None and any(map(is_flattening, self._model.modules())):
            interceptions.append(FlatClipInterception)
        everything = [each for series in self._series for each in series.layout.parameters]
        say_what_is_odd(self._model, self._optimizers, everything)
        self._sender.ask_health(weakref.WeakMethod(self._health))
        for series in self._series:
            registry.add(series.watch, interceptions)
            several = is_distributed() and torch.distributed.get_world_size() > 1
            series.watch.can_sample(ships_rows=True, shared_model=several)
            series.watch.begin_sampling()

    def _uninstall(self) -> None:
        self._naming.close()
        for series in self._series:
            series.watch.close()
            registry.remove(series.watch)

    def _watch(self, group: Sequence[torch.optim.Optimizer], among: int) -> OptimizerWatch:
        """The watch of one of so many groups, which share the budget of an iteration."""
        share = self._options.sample_budget / among
        budget = Budget(self._options.sample_every, self._options.sample_first, share)
        if len(group) > 1:
            return JointWatch(group, self._guard, budget, self._begin_step, self._emit, model=self._model)
        kind = ReportedWatch if isinstance(group[0], ReportedSteps) else OptimizerWatch
        return kind(group[0], self._guard, budget, self._begin_step, self._emit, model=self._model)  # type: ignore[arg-type]  # each takes its own

    def at_boundary(self, callback: Callable[[], None]) -> None:
        """Has something called in the training thread after each step."""
        self._series[0].at_boundary = callback

    @property
    def last_step(self) -> int | None:
        """Number of the latest step of the first optimizer, as the user counts."""
        return self._series[0].last_made

    @property
    def next_step(self) -> int:
        """Number that the next step of the first optimizer will have."""
        return self._series[0].numbering.next_step

    @property
    def run(self) -> str | None:
        """The run's name; None before the first step, or while the ranks have not agreed on a launch."""
        return self._options.run if self._identity is None else self._identity.run

    @property
    def watched_parameters(self) -> int:
        """Number of parameters with a column."""
        return sum(len(series.layout) for series in self._series)

    # -------------------------------------------------------------------------------------- what the user says

    def log(self, loss: Tensor | float | None, data: object, step: int | None, *, skipped: bool) -> None:
        """Loss, data and number of one step; see the class for which."""
        if not capturing():
            self._said.log(loss, data, step, skipped=skipped)

    # ------------------------------------------------------------------------------------------ what watches say

    def _begin_step(self, watch: OptimizerWatch) -> None:
        self._open()
        self._release(self._by_watch[id(watch)])

    def _emit(self, watch: OptimizerWatch, draft: Draft) -> None:
        series = self._by_watch[id(watch)]
        if watch.layout is not series.layout or draft.pieces != series.pieces:
            self._announce(series, draft.pieces)
        if not (series.ships_plainly and self._captures_layers):
            draft.ships_rows = series.owns_rows and self._captures_layers
            draft.ships_local = self._captures_layers
            draft.replica = not series.owns_rows
            if series.flattened:
                draft.flags |= RecordFlag.FLATTENED
        on_host = draft.on_host()
        transfers: list[Moving] = []
        with contextlib.suppress(RingFullError):  # the step was made all the same: its record is given up later
            if not on_host:
                transfers.append(send(series.readback, draft))
        step = series.numbering.begin_step()
        until = self._sender.sample_until
        if until is not None and step < until:
            series.watch.sample_next()
        series.held = Held(draft, step, series.catalog_version, len(series.layout), transfers, on_host)
        series.last_step, series.last_has_loss = step, False
        series.passes.stepped((series.index, nodes_made()))
        logged, series.logged = series.logged, None
        if logged is not None:
            series.held.add(logged, series.readback)
        if series.held.draft.logged or not self._waits_for_loss(series):
            self._release(series)
        series.be_plain(
            self._sender,
            plainly=self._captures_layers,
            waits=self._waits_for_loss(series),
            logs_after=self._said.after_steps,
        )
        if series.at_boundary is not None:
            series.watch.call_back(series.at_boundary)

    def _waits_for_loss(self, series: Series) -> bool:
        """Only the first series has losses."""
        return series.index == 0 and (self._said.after_steps or self._steps_without_loss < _STOP_WAITING_AFTER)

    def _release(self, series: Series) -> None:
        """Hands the step that waits to the sender."""
        if series.plain is not None and series.plain.held:
            self._steps_without_loss += 1
            series.plain.release(None)
        held, series.held = series.held, None
        if held is None:
            return
        series.last_step, series.last_has_loss = held.step, held.draft.logged
        self._steps_without_loss += series.index == 0 and not held.draft.logged
        branch, sequence, step = series.numbering.settle(held.step)
        heading = Heading(
            series.index,
            branch,
            sequence,
            step,
            held.draft.time_unix_seconds,
            held.catalog_version,
            held.columns,
        )
        pending = PendingStep(heading, held.draft, held.transfers, series.watch.suspicion, on_host=held.on_host)
        self._sender.offer(pending)

    def _health(self) -> HookHealth:
        """What our hooks cost; on the sender's thread."""
        watches = [each.watch for each in self._series]
        seconds = sum(watch.hook_seconds for watch in watches)
        share = self._share.observe(time.perf_counter(), seconds)
        return HookHealth(seconds, sum(watch.hook_calls for watch in watches), share)

    # -------------------------------------------------------------------------------------------- begin and end

    def _open(self) -> None:
        """Opens the run when the first step is made: then the process group and the forward order are known."""
        if self._identity is not None:
            return
        parameters = [parameter for series in self._series for parameter in series.layout.parameters]
        self._placement = placement_of(self._model, parameters)
        somewhere = parameters or ([] if self._model is None else list(self._model.parameters()))
        device = somewhere[0].device if somewhere else torch.device("cpu")
        told = [each.strategy for each in self._optimizers if isinstance(each, ReportedSteps)]
        # Of those that step together, the first speaks for all.
        firsts = self._optimizers[: len(self._series)]
        infos = [optimizer_info(index, optimizer) for index, optimizer in enumerate(firsts)]
        self._identity = Identity(
            self._options,
            config=self._config,
            optimizers=infos,
            strategy=told[0] if told else self._placement.strategy,
            device=device,
            ordinal=self._ordinal,
        )
        descriptions = self._naming.current()
        catalogs = [series.describe(self._placement, descriptions) for series in self._series]
        for series in self._series:
            ships_rows = series.owns_rows and self._captures_layers
            series.watch.can_sample(ships_rows=ships_rows, shared_model=self._placement.replication > 1)
        self._sender.open(self._identity, catalogs, self._identity.provisional())

    def _announce(self, series: Series, pieces: Sequence[Piece] | None) -> None:
        """The optimizer has other parameters than before, or norms of other pieces of them were taken."""
        descriptions = self._naming.current()
        self._sender.catalog_changed(series.describe(self._placement, descriptions, pieces))

    def flush(self) -> None:
        """Hands over what still waits for a loss."""
        for series in self._series:
            self._release(series)

    def __del__(self) -> None:
        """A watch that is dropped without an end still delivers its last step, and its run ends."""
        if getattr(self, "_series", None):  # there are none where `__init__` was never called: a copy that failed
            self._guard("the end", self.flush)
        if self.when_forgotten is not None:
            self._guard("the end", self.when_forgotten)

    def close(self) -> None:
        """Removes every hook, releases what waits, and lets torch be as it was."""
        self.when_forgotten = None
        self._uninstall()
        self.flush()
        if self._identity is not None:
            self._identity.cancel()
