"""The grounds on which a run counts as running away: one pure function each, from the quickest to the slowest.

A ground returns a phrase for people, or None. Octaves throughout: 1 is a factor of two.

Ratio means update norm over weight norm. While it is known to be as small as in any healthy run the weights are safe,
whatever the norm does: the data, the scale of the loss or a bad batch that clipping or Adam absorbs. That vetoes the
grounds that judge by the norm and the loss alone.

The numbers are round on purpose. On labelled real runs none of them matters much: a third more or less of any one of
them moves recall or precision by a run or two in a hundred.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from seismograd_server.detect.context import FAR_OCTAVES, HARMLESS_RATIO, Context
from seismograd_server.detect.evidence import times
from seismograd_server.detect.facts import UNKNOWN, Step, octaves
from seismograd_server.detect.stretch import Stretch
from seismograd_server.detect.updates import clipped_level


@dataclass(frozen=True, slots=True)
class RunawayConfig:
    """Thresholds of `runaway`."""

    # An update of a twentieth of the weights: healthy runs stay below it once they have warmed up.
    overwriting_ratio: float = -4.25
    # And twice what is usual in this run: some young ones replace so much at every step. A quarter is always too much.
    overwriting_above_usual: float = 1.0
    ruinous_ratio: float = -2.0
    # With the weights being overwritten, a norm this far above its record needs no further witness.
    overwriting_excess: float = 1.25
    # While the first window of the baseline fills, the record has not seen much: twice as high then.
    young_octaves: float = 1.0
    # Otherwise norm, loss and ratio must exceed what is usual by this factor of 64 together.
    overwriting_above: float = 2.0
    # The norm must be above its record by more than its noise: what a run has survived before it survives again.
    overwriting_losing_excess: float = 0.5
    overwriting_weight: float = 6.0
    # Or the loss has lately been four times that of the untrained model.
    untrained_octaves: float = 2.0
    # Bad data fill a batch or two with one and the same outlier; feedback through the weights makes the next one
    # larger.
    growth_octaves: float = 1.5
    growth_excess: float = 2.0
    # Bad data hurt the loss of one or two steps; a third and fourth are the model's own. The norm must confirm it by
    # twice its record.
    loss_steps: int = 4
    loss_excess: float = 1.0
    # Norm and loss have jumped together when they are within a factor of two of one another. A norm of which nothing
    # else is known must have doubled since it jumped.
    rescaled_octaves: float = 1.0
    # A loss two thirds above the untrained one is beyond its noise. It is witness enough for updates of one percent,
    # where the norm alone is not: weights that one step has ruined are repaired, or not, by ordinary updates.
    undone_octaves: float = 0.75
    safe_ratio: float = -6.5
    # An excursion that has come half the way back (in octaves above the record) is recovering.
    still_up: float = 0.5
    # By the norm alone: the longest spikes that come back by themselves stay up for four or five steps.
    no_return_steps: int = 6
    no_return_excess: float = 1.5
    # And it has come back by no more than a fifth: one that comes back shows it within these steps.
    no_return_up: float = 0.8
    # Without a ratio, a loss past its worst must have been bad for three times as long, and be above the untrained one.
    turned_losses: int = 12
    turned_octaves: float = 0.25
    # A thousandfold above everything in memory: an overflow is a step or two away, and waiting gains nothing.
    hopeless_excess: float = 10.0
    # Over hundreds of steps: the usual loss is twice what it was untrained, and the usual norm three times its lowest.
    slow_loss_octaves: float = 1.0
    slow_norm_octaves: float = 1.5
    # Or within one long excursion, twice as long as the losses are whose median stands for what it is lately.
    creeping_steps: int = 16
    # Where no loss is known: sixteen times above all of the first steps, and far beyond the noise.
    rising_octaves: float = 4.0
    rising_spreads: float = 8.0
    # Before there is a baseline: against the largest of the first three steps, when the step before was already high,
    # because a run's first updates are its wildest.
    early_octaves: float = 2.5
    early_before_octaves: float = 0.5
    early_loss_octaves: float = 2.0
    early_hopeless_octaves: float = 8.0
    # Without any ground for so long, and with the excursion over, the run has recovered.
    recovered_after_steps: int = 32


Ground: TypeAlias = Callable[[Step, Context, RunawayConfig], str | None]


def overwriting(step: Step, context: Context, config: RunawayConfig) -> str | None:
    """The updates replace a twentieth of the weights or more, and the norm or the loss shows the damage."""
    reading = context.reading
    usual = min(context.updates.usual.center() + config.overwriting_above_usual, config.ruinous_ratio)
    if not reading.ratio >= config.overwriting_ratio or reading.ratio < usual or not context.armed():
        return None
    if reading.ratio < config.ruinous_ratio and _rescaled(step, context, config):
        return None
    young = 0.0 if context.norm.full() else config.young_octaves
    high = reading.far and reading.excess >= config.overwriting_excess + young and not context.learns(step)
    weight = reading.above + reading.loss_excess + reading.ratio - config.overwriting_ratio
    losing = reading.bad_loss and reading.above >= config.overwriting_above and weight >= config.overwriting_weight
    losing = losing and reading.excess >= config.overwriting_losing_excess
    lost = reading.above > 0.0 and context.lately_untrained() >= config.untrained_octaves
    if not (high or losing or lost):
        return None
    share = "all" if reading.ratio >= 0.0 else f"{2.0**reading.ratio:.0%}"
    estimated = "" if reading.ratio_is_sampled else ", as estimated from the learning rate"
    damage = ", and the loss suffers" if reading.bad_loss else ""
    return f"{_usual(context)}, its update overwrites {share} of the weights{estimated}{damage}"


def growing(step: Step, context: Context, config: RunawayConfig) -> str | None:
    """The excursion goes on rising after its first two high steps; in another scale, above its record there."""
    reading, excursion = context.reading, context.excursion
    if not excursion.open or _harmless(context) or step.level < excursion.peak:
        return None
    explained = context.lift() if _rescaled(step, context, config) else 0.0
    if reading.excess - explained < config.growth_excess or excursion.growth() < config.growth_octaves:
        return None
    return f"{_usual(context)} and growing"


def hopeless(step: Step, context: Context, config: RunawayConfig) -> str | None:
    """The norm is a thousandfold above everything in memory."""
    reading = context.reading
    if not context.excursion.open or _harmless(context) or not reading.excess >= config.hopeless_excess:
        return None
    unseen = math.isnan(reading.ratio) and math.isnan(reading.loss_above)
    if context.excursion.steps < 2 and (unseen or reading.ratio < config.overwriting_ratio):
        return None  # it may be a single bad batch, as far as is known: the next step tells
    if math.isnan(reading.ratio) and clipped_level(step) - context.norm.center() < FAR_OCTAVES:
        return None  # clipping has left no more of it than of a usual step
    unmoved = not math.isnan(reading.loss_above) and not reading.bad_loss
    if reading.ratio < config.overwriting_ratio and (unmoved or _rescaled(step, context, config)):
        return None
    return f"{_usual(context)}, far beyond anything in this run"


def loss_follows(step: Step, context: Context, config: RunawayConfig) -> str | None:
    """The loss has been bad for several steps of the excursion, and still is."""
    reading, excursion = context.reading, context.excursion
    if not excursion.open or _harmless(context) or not (reading.bad_loss and _still_up(context, config)):
        return None
    mostly = 2 * excursion.bad_losses >= excursion.steps
    if excursion.bad_losses < config.loss_steps or not mostly or reading.excess < config.loss_excess:
        return None
    if _turned(step, context, config) or _rescaled(step, context, config):
        return None
    return f"{_usual(context)}, and the loss has followed for {excursion.bad_losses} steps"


def creeping(step: Step, context: Context, config: RunawayConfig) -> str | None:
    """However small the updates: over a long excursion the norm has grown, and the loss is twice the untrained one."""
    reading, excursion = context.reading, context.excursion
    if not excursion.open or excursion.steps < config.creeping_steps or not (reading.far and reading.bad_loss):
        return None
    mostly = 2 * excursion.bad_losses >= excursion.steps
    if not mostly or not context.creeps() or reading.excess < config.no_return_up * excursion.peak_excess:
        return None
    if not context.lately_untrained() >= config.slow_loss_octaves:
        return None
    if excursion.leapt and _rescaled(step, context, config):
        return None
    return f"{_usual(context)} and the loss {times(context.lately_untrained())} the untrained one, after a long rise"


def worse_than_untrained(step: Step, context: Context, config: RunawayConfig) -> str | None:
    """An excursion has undone the training: the loss of the latest steps lies above where it began."""
    if not context.excursion.open or not context.reading.far or context.reading.ratio < config.safe_ratio:
        return None
    if context.excursion.bad_losses < config.loss_steps or not context.lately_untrained() >= config.undone_octaves:
        return None
    if _turned(step, context, config) or _rescaled(step, context, config):
        return None
    return f"{_usual(context)}, and the loss is {times(context.lately_untrained())} the untrained one"


def no_return(step: Step, context: Context, config: RunawayConfig) -> str | None:
    """The norm stays above its record."""
    reading, excursion = context.reading, context.excursion
    if not excursion.open or _harmless(context) or not _still_up(context, config) or context.learns(step):
        return None
    mostly = 2 * excursion.high_steps >= excursion.steps
    if excursion.high_steps < config.no_return_steps or not mostly or reading.excess < config.no_return_excess:
        return None
    if reading.excess < config.no_return_up * excursion.peak_excess or _rescaled(step, context, config):
        return None
    if context.lately_untrained() < 0.0 and _turned(step, context, config):
        return None  # still better than untrained, and on its way back
    seen = len(context.loss) or not math.isnan(reading.ratio) or context.ranks.leading() is not None
    if not seen and excursion.growth() < config.rescaled_octaves:
        return None
    return f"{_usual(context)}, for {excursion.high_steps} of {excursion.steps} steps"


def slowly(step: Step, context: Context, config: RunawayConfig) -> str | None:  # noqa: ARG001 (one form for all grounds)
    """The usual loss has risen above the untrained one, and the usual norm with it."""
    if not context.armed():
        return None
    rise = context.norm.center() - context.lowest
    worse = octaves(context.loss.center()) - octaves(context.untrained_loss())
    if rise < config.slow_norm_octaves or not worse >= config.slow_loss_octaves:
        return None
    return f"has risen {times(rise)} over its lowest level while the loss rose to {times(worse)} the untrained one"


def rising(step: Step, context: Context, config: RunawayConfig) -> str | None:  # noqa: ARG001 (one form for all grounds)
    """Without a loss to ask: the usual norm has climbed far above the whole beginning of the run."""
    if not context.armed() or len(context.loss) or _harmless(context):
        return None
    rise = context.norm.center() - max(context.first_levels)
    if rise < max(config.rising_octaves, config.rising_spreads * context.norm.spread()):
        return None
    return f"has climbed to {times(rise)} the largest of the first steps"


def from_the_start(step: Step, context: Context, config: RunawayConfig) -> str | None:
    """Before there is a baseline: the norm and the loss leave the first steps behind."""
    if context.armed() or not context.first_levels:
        return None
    rise = step.level - max(context.first_levels[:3])
    if rise >= config.early_hopeless_octaves:
        return f"{times(rise)} the first steps', before any baseline"
    earlier = context.first_levels[:-1][:3]
    goes_on = bool(earlier) and context.first_levels[-1] - max(earlier) >= config.early_before_octaves
    if goes_on and rise >= config.early_octaves and context.reading.loss_untrained >= config.early_loss_octaves:
        worse = times(context.reading.loss_untrained)
        return f"{times(rise)} the first steps', and the loss {worse} the untrained one"
    return None


GROUNDS: tuple[Ground, ...] = (
    overwriting,
    hopeless,
    growing,
    loss_follows,
    worse_than_untrained,
    no_return,
    creeping,
    slowly,
    rising,
    from_the_start,
)


# The logarithm of the largest of some numbers may be off in its last bit against that of another one.
_ROUNDING_OCTAVES = 1e-9


def groundless(stretch: Stretch, context: Context, config: RunawayConfig) -> bool:
    """Whether it is certain that no ground applies at any step of a calm stretch. False = look at each of them.

    Calm means a baseline, no open excursion, and a norm less than `CALM_OCTAVES` above its baseline, so that three
    grounds are left: `overwriting` by a loss that is lost, `slowly` and `rising`.
    """
    untrained = stretch.untrained - _ROUNDING_OCTAVES
    lost = (
        octaves(max([*context.last_losses, *stretch.losses], default=UNKNOWN)) - untrained >= config.untrained_octaves
    )
    if lost and any(each >= config.overwriting_ratio for each in stretch.ratios(context)):
        return False
    norm, loss = stretch.norm, stretch.loss
    risen = norm.highest - min(context.lowest, norm.lowest) >= config.slow_norm_octaves
    if risen and octaves(max([*loss.centers, loss.baseline.center()])) - untrained >= config.slow_loss_octaves:
        return False
    if len(context.loss) or norm.highest - max(context.first_levels) < config.rising_octaves:
        return True
    return all(each < HARMLESS_RATIO for each in stretch.ratios(context))


def _harmless(context: Context) -> bool:
    return context.reading.ratio < HARMLESS_RATIO


def _rescaled(step: Step, context: Context, config: RunawayConfig) -> bool:
    """Whether norm and loss have jumped by the same factor and stayed there, with the updates in bounds.

    That is a loss which is summed where it was averaged, or targets in other units: an optimizer that normalises its
    updates does not mind. The data of a single rank are no change of scale.
    Where updates are not known, the layers tell.
    """
    reading, excursion = context.reading, context.excursion
    if context.lifted():
        return True
    stays = excursion.steps < 2 or reading.above - context.lift() < FAR_OCTAVES
    steady = stays and reading.ratio < config.ruinous_ratio
    alike = context.updates.normalised() and context.ranks.leading() is None
    return excursion.open and steady and alike and context.imbalance(step) < config.rescaled_octaves


def _turned(step: Step, context: Context, config: RunawayConfig) -> bool:
    """Where the updates are not known: whether the loss may be on its way back.

    It is not when this is its worst moment, or when it has been above the untrained one for long.
    """
    if context.knows_updates() or step.loss >= context.excursion.worst_loss:
        return False
    long = context.excursion.bad_losses >= config.turned_losses
    return not (long and context.lately_untrained() >= config.turned_octaves)


def _still_up(context: Context, config: RunawayConfig) -> bool:
    """Whether the norm is high, and has not come half the way back."""
    reading = context.reading
    return reading.high and reading.excess >= config.still_up * context.excursion.peak_excess


def _usual(context: Context) -> str:
    return f"{times(context.reading.above)} its usual {context.baseline():.3g}"
