"""What is sampled of one optimizer's steps: the probes, which of them the next step takes, and what that costs."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from seismograd.capture.budget import Budget, Extra
from seismograd.capture.guard import Guard
from seismograd.capture.layout import Layout
from seismograd.capture.parts import Part
from seismograd.capture.probes import Probes


class Sampling:
    """`chosen` are the extras that the next step takes."""

    def __init__(self, guard: Guard, budget: Budget, model: nn.Module | None) -> None:
        self.chosen: frozenset[Extra] = frozenset()
        self.shared_model = False  # other ranks hold the same parameters: local norms are worth taking
        self.probes = Probes(guard, model)
        self._budget = budget
        self._ships_rows = True
        self._behind: tuple[int, float] | None = None  # steps and hook seconds, when the latest sampled step had ended

    def go_by(self, layout: Layout, *, ships_rows: bool, shared_model: bool) -> None:
        """Samples what there is: by parameter with rows to ship, before an all-reduce with a shared model."""
        self._ships_rows, self.shared_model = ships_rows, shared_model
        if not shared_model:
            self.probes.disarm_local()
        self._budget.possible = self._possible(layout, ships_rows=ships_rows)
        self.chosen &= self._budget.possible

    def follow(self, layout: Layout) -> None:
        """The same for other parameters, of which nothing has been sampled yet."""
        self.probes.forget()
        self.go_by(layout, ships_rows=self._ships_rows, shared_model=self.shared_model)

    def choose(self, count: int) -> None:
        """What the step with this count takes by its turn."""
        self.chosen = self._budget.samples(count)

    def choose_whole(self, layout: Layout) -> None:
        """All that the step can bear, whatever its turn would be, whoever ships rows."""
        self.chosen |= self._budget.all_of(self._possible(layout, ships_rows=True))

    def next_turn(self, count: int) -> int:
        """First count from this one on whose turn it is to be sampled."""
        return self._budget.next_sample(count)

    @property
    def examine(self) -> Callable[[list[Part]], None] | None:
        """Looks for the largest elements wherever norms are taken for the step; None where nobody is to."""
        return self.probes.examine if Extra.LARGEST in self.chosen else None

    def arm(self, layout: Layout) -> None:
        """Watches the next backward pass for local gradients, if they are to be sampled."""
        if Extra.LOCAL in self.chosen:
            self.probes.arm_local(layout.parameters)

    def step_took(self, seconds: float) -> None:
        """From the end of one step to that of the next."""
        self._budget.step_took(max(seconds - self.probes.seconds, 0.0))

    def account(self, steps: int, hook_seconds: float, own: float, probing: float) -> None:
        """Tells the budget what a sampled step has cost, so that it adapts.

        `steps` and `hook_seconds` are running totals, this step included; `own` seconds are this step's, `probing` of
        them in the probes. What remains of them, beyond what a step in between costs, is the price of being sampled.
        """
        if self._behind is not None and (between := steps - 1 - self._behind[0]) > 0:
            usual = (hook_seconds - own - self._behind[1]) / between
            self._budget.sampling_took(max(own - probing - usual, 0.0))
        self._behind = steps, hook_seconds
        for costs in self.probes.take_costs():
            self._budget.samples_took(costs)

    def _possible(self, layout: Layout, *, ships_rows: bool) -> frozenset[Extra]:
        if not len(layout):
            return frozenset()
        found = {Extra.WEIGHTS, Extra.LARGEST} if ships_rows else set()
        if ships_rows and self.probes.have_gains(layout):
            found.add(Extra.GAIN)
        if self.shared_model and not layout.sharded:
            found.add(Extra.LOCAL)
        return frozenset(found)
