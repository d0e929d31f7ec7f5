"""What all signatures of one run share: baselines, the reading of a step against them, and the open excursion.

Per step: `read` compares it with what the steps before have taught, the detectors look, and `learn` takes it in.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field

from seismograd_server.detect.baseline import Baseline, Record
from seismograd_server.detect.excursion import Excursion, imbalance, middle, rise_within
from seismograd_server.detect.facts import UNKNOWN, Step, from_octaves, numpy_octaves, octaves
from seismograd_server.detect.layers import LayerMemory
from seismograd_server.detect.ranks import RankMemory
from seismograd_server.detect.reading import Reading
from seismograd_server.detect.state import NUMBERS, SETTING
from seismograd_server.detect.updates import Updates
from seismograd_server.detect.weights import WeightMemory

# Steps until the first baseline: the first ones of a run are its wildest, and twenty give a usable median.
WARM_UP_STEPS = 20
# The norm is far from usual at this many spreads and at least two octaves (fourfold) above the baseline, and is high
# when it is also above everything in recent memory.
_FAR_SPREADS = 2.0
FAR_OCTAVES = 2.0
_HIGH_OCTAVES = 1.0
# A loss is bad at this many octaves beyond its reference, and beyond its own largest recent deviation.
_BAD_LOSS_OCTAVES = 1.0
_BAD_LOSS_EXCESS = 0.5
# A survived excursion raises the record by no more than this: the next one like it is still seen, but is less news.
_SURVIVED_OCTAVES = 1.5
# A level that stays for a whole baseline window has become the usual one, if small updates or a good loss say that the
# run is well: a new loss scale, batch size or phase of the data. Where neither is known it takes twice as long, and
# of a run that is not well it never becomes usual.
_REBASE_STEPS = 64
_REBASE_UNSEEN_STEPS = 128
_CREEPING_OCTAVES = 1.0
# Half of all layers have risen by the same within a factor of two: from batch to batch they differ as much.
_UNEVEN_OCTAVES = 1.0
HARMLESS_RATIO = -5.64  # updates of less than two percent of the weights cannot wreck a model within a few steps
# Untrained is the median of so many first losses, before training can have changed much.
UNTRAINED_STEPS = 10
# "Lately" in loss and norm: the median of so many steps.
_LATELY_STEPS = 8
# After a restart or a rewind the norm may differ for a while: for so many steps an event must be this much larger.
_GRACE_STEPS = 16
_GRACE_OCTAVES = 1.0


@dataclass(slots=True)
class Context:
    """Learnt from closed steps."""

    seen: int = 0
    last_step: int = 0
    attempt: int = 0
    branch: int = 0
    grace: int = 0
    norm: Baseline = field(default_factory=Baseline)
    record: Record = field(default_factory=Record)
    loss: Baseline = field(default_factory=lambda: Baseline(least_spread=0.0))
    loss_record: Record = field(default_factory=Record)
    first_levels: list[float] = field(default_factory=list, metadata=NUMBERS)
    first_losses: list[float] = field(default_factory=list, metadata=NUMBERS)
    last_losses: list[float] = field(default_factory=list, metadata=NUMBERS)
    lowest: float = math.inf  # the lowest that the norm's baseline has been, in octaves
    updates: Updates = field(default_factory=Updates)
    weights: WeightMemory = field(default_factory=WeightMemory)
    held_levels: list[float] = field(default_factory=list, metadata=NUMBERS)  # of the open excursion
    held_losses: list[float] = field(default_factory=list, metadata=NUMBERS)
    excursion: Excursion = field(default_factory=Excursion)
    layers: LayerMemory = field(default_factory=LayerMemory)
    ranks: RankMemory = field(default_factory=RankMemory)
    reading: Reading = field(default_factory=Reading, metadata=SETTING)  # of the step that is looked at

    def armed(self) -> bool:
        """Whether there is a baseline to judge by."""
        return len(self.norm) >= WARM_UP_STEPS

    def usual_level(self) -> float:
        """Level of the norm that is usual now; NaN = none yet."""
        return self.norm.center() if self.armed() else UNKNOWN

    def baseline(self) -> float:
        """Norm that is usual now; NaN = none yet."""
        return from_octaves(self.usual_level())

    def threshold(self) -> float:
        """Norm above which a step is far from usual; NaN = none yet."""
        return from_octaves(self.norm.center() + self._far_octaves()) if self.armed() else math.nan

    def risen(self) -> float:
        """Octaves by which the norm of the latest few steps lies above the lowest usual one; NaN = not known yet."""
        latest = [level for _, level in self.excursion.trail[-_LATELY_STEPS:]]
        return middle(latest) - self.lowest if self.armed() and latest else UNKNOWN

    def untrained_loss(self) -> float:
        """Median of the first losses: what a model that has learnt nothing pays; NaN = not known."""
        return middle(self.first_losses) if self.first_losses else math.nan

    def untrained_level(self) -> float:
        """log2 of it; NaN = not known."""
        return octaves(self.untrained_loss())

    def lately_untrained(self) -> float:
        """Octaves by which the loss of the latest few steps lies above the untrained one; NaN = not known."""
        known = len(self.last_losses) >= _LATELY_STEPS
        return octaves(middle(self.last_losses)) - self.untrained_level() if known else UNKNOWN

    def learns(self, step: Step) -> bool:
        """Whether the loss, now and in the latest few steps, lies in the lowest quarter of what it has been of late.

        A model that learns fast has gradients that grow and large updates; one that explodes has a loss that rises.
        """
        if not step.loss_known or len(self.loss) < WARM_UP_STEPS or len(self.last_losses) < _LATELY_STEPS:
            return False
        return max(step.loss, middle(self.last_losses)) < self.loss.lower_quartile()

    def read(self, step: Step) -> None:
        """Compare a step with what is known, and open or follow the excursion."""
        self._notice_restart(step)
        reading = self.reading = Reading()
        self.ranks.look(step.rank_norms, step.rank_losses)
        self.updates.look(step)
        self.weights.look(step)
        if step.skipped_by_scaler or step.nan_count + step.inf_count or math.isnan(step.level):
            return
        reading.judged = True
        reading.ratio = self.updates.estimate(step, self.excursion.steps + 1 if self.excursion.open else 0)
        reading.ratio_is_sampled = not math.isnan(step.ratio)
        self._read_loss(step, reading)
        self.excursion.remember(step.step, step.level)
        if not self.armed():
            return
        reading.above = step.level - self.norm.center()
        reading.excess = self.record.excess(step.level)
        reading.far = reading.above >= self._far_octaves()
        reading.high = reading.far and reading.excess >= _HIGH_OCTAVES
        self._follow_excursion(step, reading)

    def learn(self, step: Step) -> None:
        """Take a step in, after the detectors have looked."""
        reading, excursion = self.reading, self.excursion
        self.seen += 1
        self.grace = max(0, self.grace - 1)
        self.last_step = step.step
        if not reading.judged:
            return
        if len(self.first_levels) < WARM_UP_STEPS:
            self.first_levels.append(step.level)
        if not excursion.open or self.learns(step) or self._may_learn():  # what is learnt becomes the usual at once
            self._accept(step)
        if not excursion.open:
            return
        self.held_levels = [*self.held_levels[1 - _REBASE_STEPS :], step.level]
        if step.loss_known and math.isfinite(step.loss):
            self.held_losses = [*self.held_losses[1 - _REBASE_STEPS :], step.loss]
        if excursion.is_over():
            self._close_excursion(survived=True)
        elif self._has_other_scale() or (excursion.steps >= _REBASE_STEPS and self._stays_for_good(reading)):
            self._rebase()
            self._close_excursion(survived=True)

    def _may_learn(self) -> bool:
        """Whether a young run shows nothing but its norms: they rise tenfold when a model begins to learn as well."""
        return not (self.norm.full() or len(self.loss)) and math.isnan(self.reading.ratio)

    def _accept(self, step: Step) -> None:
        self.norm.accept(step.level)
        self.record.accept(step.level)
        if self.armed():
            self.lowest = min(self.lowest, self.norm.center())
        self.updates.accept(step)
        self.layers.accept(step)
        self.ranks.accept(step.rank_norms, step.rank_losses)
        if not step.loss_known or not math.isfinite(step.loss):
            return
        if len(self.first_losses) < UNTRAINED_STEPS:
            self.first_losses.append(step.loss)
        if len(self.loss) >= WARM_UP_STEPS:
            deviation = abs(step.loss - self.loss.center())
            if deviation > 0.0:
                self.loss_record.accept(numpy_octaves(deviation))
        self.loss.accept(step.loss)

    def _stays_for_good(self, reading: Reading) -> bool:
        """Whether the level of a long excursion may be taken for the new usual one."""
        if 2 * self.excursion.bad_losses >= self.excursion.steps and self.creeps():
            return False
        if not math.isnan(reading.ratio):
            return reading.ratio < HARMLESS_RATIO
        if self.last_losses:
            return 2 * self.excursion.bad_losses < self.excursion.steps
        return self.excursion.steps >= _REBASE_UNSEEN_STEPS

    def creeps(self, octaves_more: float = _CREEPING_OCTAVES) -> bool:
        """Whether the norm has gone on rising through the held steps: what has changed its scale stays where it is."""
        return rise_within(self.held_levels) >= octaves_more

    def _has_other_scale(self) -> bool:
        """Whether a lifted gradient has stayed where it leapt to, for as long as a first baseline takes."""
        stays = len(self.held_levels) >= WARM_UP_STEPS and self.lifted() and not self.creeps(_CREEPING_OCTAVES / 2.0)
        return stays and self.lift() >= FAR_OCTAVES

    def lift(self) -> float:
        """Octaves of the excursion's median above the usual: growth that only reaches it is its noise; 0 = none yet."""
        return middle(self.held_levels) - self.norm.center() if self.held_levels else 0.0

    def imbalance(self, step: Step) -> float:
        """Octaves between norm and loss, usually in the excursion; NaN = not known."""
        levels, losses = [*self.held_levels, step.level], [*self.held_losses, step.loss]
        known = step.loss_known and len(losses) == len(levels) and self.armed()
        return imbalance(levels, losses, self.norm.center(), self.loss.center()) if known else UNKNOWN

    def knows_updates(self) -> bool:
        """Whether those of the excursion are: sampled in it, or plain SGD's. Others are only known to be bounded."""
        updates = self.updates
        return updates.age < self.excursion.steps or (updates.samples > 0 and not updates.normalised())

    def lifted(self) -> bool:
        """Where updates are not known: whether an excursion has lifted the whole gradient, and the loss by no more.

        Every layer has leapt by the same factor, and stayed: the loss has another scale, or the data are other or
        noisier. Weights that are being ruined change each layer's share within a few steps.
        """
        excursion = self.excursion
        even = excursion.open and excursion.leapt and excursion.uneven < _UNEVEN_OCTAVES
        if not even or not self.held_levels or self.knows_updates() or self.ranks.leading() is not None:
            return False
        if len(self.held_levels) >= WARM_UP_STEPS and self.creeps():
            return False
        if len(self.held_losses) < len(self.held_levels) or min(self.held_losses) <= 0.0:
            return not len(self.loss)
        factors = [octaves(loss) - level for level, loss in zip(self.held_levels, self.held_losses, strict=True)]
        usual = octaves(self.loss.center()) - self.norm.center()
        return middle(factors) - usual < _UNEVEN_OCTAVES

    def _rebase(self) -> None:
        """Take the held levels for the usual ones, and the change of the loss for a change of its scale."""
        lifted, before = self.lifted(), self.norm.center()
        self.norm.restart(self.held_levels)
        if lifted:
            self.first_levels = [each + self.norm.center() - before for each in self.first_levels]
        self.record.height = max(self.held_levels)
        self.lowest = self.norm.center()
        if self.held_losses and len(self.loss):
            before = self.loss.center()
            self.loss.restart(self.held_losses)
            if before > 0.0 and self.loss.center() > 0.0:
                self.first_losses = [each * (self.loss.center() / before) for each in self.first_losses]

    def _close_excursion(self, *, survived: bool) -> None:
        if survived:
            self.record.survive(self.excursion.peak, _SURVIVED_OCTAVES)
        self.excursion.end()

    def _follow_excursion(self, step: Step, reading: Reading) -> None:
        if not self.excursion.open:
            if not (reading.far and reading.excess > 0.0):
                return
            leading = self.layers.leading(step)
            self.excursion.begin(step.step, self.last_step, leading[0] if leading else "")
            self.excursion.leapt = self.excursion.level_before() - self.norm.center() < _CREEPING_OCTAVES
            self.held_levels, self.held_losses = [], []
        if reading.far:
            self.excursion.shape(self.layers.unevenness(step))
        self.excursion.follow(
            step.level,
            reading.excess,
            far=reading.far,
            high=reading.high,
            bad_loss=reading.bad_loss,
            loss=step.loss if step.loss_known else UNKNOWN,
        )

    def _read_loss(self, step: Step, reading: Reading) -> None:
        if not step.loss_known or len(self.loss) < 1:
            return
        self.remember_losses([step.loss])
        if not math.isfinite(step.loss):  # `nonfinite` tells of it; here it is simply as bad as can be
            reading.loss_above = reading.loss_excess = reading.loss_untrained = math.inf
            reading.bad_loss = True
            return
        center = self.loss.center()
        deviation = step.loss - center
        scale = max(abs(center), self.loss.spread(), sys.float_info.min)
        reading.loss_above = math.log2(1.0 + max(0.0, deviation) / scale)
        if deviation > 0.0 and len(self.loss) >= WARM_UP_STEPS:
            reading.loss_excess = self.loss_record.excess(numpy_octaves(deviation))
        reading.loss_untrained = octaves(step.loss) - octaves(self.untrained_loss())
        reading.bad_loss = reading.loss_above >= _BAD_LOSS_OCTAVES and reading.loss_excess >= _BAD_LOSS_EXCESS

    def remember_losses(self, losses: list[float]) -> None:
        """Keep the latest few."""
        self.last_losses = [*self.last_losses, *losses][-_LATELY_STEPS:]

    def leading_layer(self, step: Step) -> str | None:
        """The layer to look at first: whose weights were changed by no update, else whose gradient rose most."""
        if self.weights.suspect:
            return self.weights.suspect
        rising = self.layers.leading(step)
        return rising[0] if rising else None

    def grace_octaves(self) -> float:
        """How much larger an event must be for now, because the run was restarted or rewound."""
        return _GRACE_OCTAVES if self.grace else 0.0

    def _far_octaves(self) -> float:
        return max(FAR_OCTAVES, _FAR_SPREADS * self.norm.spread()) + self.grace_octaves()

    def _notice_restart(self, step: Step) -> None:
        attempt, branch = step.block.attempt, step.block.branch
        if self.seen and (attempt, branch) != (self.attempt, self.branch):
            self._close_excursion(survived=False)
            self.excursion.trail = []
            self.weights.forget()
            self.grace = _GRACE_STEPS
        self.attempt, self.branch = attempt, branch
