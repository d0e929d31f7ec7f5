"""A stretch of calm steps, taken in at once: what a healthy run costs, and it is healthy nearly always.

    foresee (what the steps will teach, on copies) -> detectors: how many of them may pass unseen? -> take_in (so many)

A step is calm when it is judged (sound, see `columns.Columns`), all memories are full, nothing is going on (no
excursion, no restart lately), and its norm lies less than `CALM_OCTAVES` above its baseline. What `take_in` leaves
behind is, to the last bit, what `Context.read` and `Context.learn` would have left.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise

import numpy as np

from seismograd_server.detect.baseline import Followed, follow, follow_all
from seismograd_server.detect.columns import octaves_of
from seismograd_server.detect.context import FAR_OCTAVES, UNTRAINED_STEPS, WARM_UP_STEPS, Context
from seismograd_server.detect.facts import Facts, octaves
from seismograd_server.detect.updates import clipped
from seismograd_server.detect.weights import are_steady
from seismograd_server.model import Float32, Layout

# Less than what is far from usual, so that a calm step can neither open an excursion nor count as a ground by its norm.
CALM_OCTAVES = FAR_OCTAVES


@dataclass(slots=True)
class Stretch:
    """Rows [start, start + count) of a block, all calm, and what is usual before each of them."""

    facts: Facts
    start: int
    count: int
    norm: Followed
    loss_rows: Sequence[int]  # steps of known loss, counted from the start
    losses: list[float]  # of these steps
    loss: Followed  # through these
    loss_deviations: list[float]  # log2 of how far each loss lies from the center before it, where it does
    untrained: float  # log2 of the untrained loss; NaN = not known
    steady: bool = False  # it is known that no weights change by much from sample to sample

    @property
    def layout(self) -> Layout:
        """The layers."""
        return self.facts.block.layout

    @property
    def layer_norms(self) -> Float32:
        """float32[count, l], finite part; NaN = not known."""
        norms: Float32 = self.facts.block.layer_norms[self.start : self.start + self.count]
        return norms

    def loss_center(self, row: int) -> float:
        """The usual loss before a step, counted from the start; NaN = no loss is known yet."""
        place = bisect_left(self.loss_rows, row)
        return self.loss.centers[place] if place < len(self.losses) else self.loss.baseline.center()

    def ratios(self, context: Context) -> list[float]:
        """What `Reading.ratio` would be at each step. Slow: for grounds that cannot be ruled out otherwise."""
        updates = replace(context.updates)
        ratios = []
        for row in range(self.start, self.start + self.count):
            step = self.facts.step(row)
            updates.look(step)
            ratios.append(updates.estimate(step, 0))
        return ratios


def foresee(context: Context, facts: Facts, start: int, most: int) -> Stretch | None:
    """Follow the usual through the next calm steps, at most so many; None = the very next one is not calm."""
    stop = min(facts.sound_until(start), start + most)
    if stop == start or not _is_calm(context, facts):
        return None
    norm = follow(context.norm, facts.level_column[start:stop], below=CALM_OCTAVES)
    count = len(norm.centers)
    rows = facts.rows_of_loss(start, start + count)
    if not count or (rows and not _knows_losses(context)):
        return None
    losses = facts.losses[rows]
    loss = follow(context.loss, losses)
    return Stretch(
        facts=facts,
        start=start,
        count=count,
        norm=norm,
        loss_rows=[row - start for row in rows],
        losses=losses.tolist(),
        loss=loss,
        loss_deviations=_deviations([loss])[0],
        untrained=context.untrained_level(),
    )


def foresee_all(contexts: Sequence[Context], facts: Sequence[Facts], most: int) -> list[Stretch | None]:
    """Foresee whole blocks of different runs: what `foresee` would say of each. None = it says less, so ask it."""
    calm = [
        number
        for number, (context, each) in enumerate(zip(contexts, facts, strict=True))
        if 0 < each.count <= most
        and each.sound_until(0) == each.count
        and _is_calm(context, each)
        and (_knows_losses(context) or not each.rows_of_loss(0, each.count))
    ]
    rows = [facts[number].rows_of_loss(0, facts[number].count) for number in calm]
    losses = [
        facts[number].losses if len(own) == facts[number].count else facts[number].losses[own]
        for number, own in zip(calm, rows, strict=True)
    ]
    norms = follow_all([contexts[number].norm for number in calm], [facts[number].level_column for number in calm])
    usual_losses = follow_all([contexts[number].loss for number in calm], losses)
    deviations = _deviations(usual_losses)
    steady = are_steady(
        [contexts[number].weights for number in calm],
        [facts[number].block for number in calm],
        [facts[number].sampled for number in calm],
    )
    found: list[Stretch | None] = [None] * len(facts)
    for place, number in enumerate(calm):
        if norms[place].furthest < CALM_OCTAVES:
            each, known = facts[number], rows[place]
            found[number] = Stretch(
                facts=each,
                start=0,
                count=each.count,
                norm=norms[place],
                loss_rows=known,
                losses=losses[place].tolist(),
                loss=usual_losses[place],
                loss_deviations=deviations[place],
                untrained=contexts[number].untrained_level(),
                steady=steady[place],
            )
    return found


def _deviations(losses: Sequence[Followed]) -> list[list[float]]:
    """What the loss's record learns of each: log2 of how far the losses lie from the usual one, where they do."""
    if not losses:
        return []
    apart = np.abs(np.concatenate([each.above for each in losses]))
    levels: list[float] = octaves_of(apart, apart > 0.0).tolist()
    if apart.all():
        bounds = [0, *accumulate(len(each.above) for each in losses)]
        return [levels[start:stop] for start, stop in pairwise(bounds)]
    rest = iter(levels)
    return [[level for level in islice(rest, len(each.above)) if not math.isnan(level)] for each in losses]


def _is_calm(context: Context, facts: Facts) -> bool:
    block = facts.block
    return (
        not context.excursion.open
        and not context.grace
        and context.norm.full()
        and len(context.first_levels) >= WARM_UP_STEPS
        and (block.attempt, block.branch) == (context.attempt, context.branch)
        and context.layers.rows.shape[1] == block.layer_norms.shape[1] > 0
        and all(map(math.isfinite, context.last_losses))
    )


def _knows_losses(context: Context) -> bool:
    return len(context.loss) >= WARM_UP_STEPS and len(context.first_losses) >= UNTRAINED_STEPS


def shortened(stretch: Stretch, context: Context, count: int) -> Stretch:
    """Only the first `count` steps of a stretch, which has not been taken in yet."""
    shorter = foresee(context, stretch.facts, stretch.start, count) if count < stretch.count else stretch
    assert shorter is not None  # noqa: S101 (for the type checker: the beginning of what is calm is calm)
    return shorter


def take_in(context: Context, stretch: Stretch) -> None:
    """Learn from the steps of a stretch."""
    facts, start, stop = stretch.facts, stretch.start, stretch.start + stretch.count
    levels = facts.levels if stretch.count == facts.count else facts.levels[start:stop]
    context.seen += stretch.count
    context.last_step = facts.steps.item(stop - 1)
    context.norm = stretch.norm.baseline
    context.lowest = min(context.lowest, stretch.norm.lowest, context.norm.center())
    context.record.accept_all(levels)
    context.excursion.remember_all(facts.steps[start:stop], levels)
    context.layers.accept_all(stretch.layer_norms)
    _take_in_losses(context, stretch)
    _take_in_samples(context, facts, start, stop, steady=stretch.steady)
    _take_in_ranks(context, facts, start, stop)


def _take_in_losses(context: Context, stretch: Stretch) -> None:
    if not stretch.losses:
        return
    context.loss_record.accept_all(stretch.loss_deviations)
    context.remember_losses(stretch.losses)
    context.loss = stretch.loss.baseline


def _take_in_samples(context: Context, facts: Facts, start: int, stop: int, *, steady: bool) -> None:
    sampled, behind = facts.sampled[bisect_left(facts.sampled, start) : bisect_left(facts.sampled, stop)], start
    columns = facts.columns
    for row in sampled:
        context.updates.wait(row + 1 - behind)
        at = facts.start + row
        if math.isfinite(ratio := columns.ratios.item(at)):
            gradient, rate = clipped(columns.levels[at], columns.clips.item(at)), columns.rates.item(at)
            context.updates.sample(ratio, columns.update_levels.item(at), octaves(rate), gradient)
            context.updates.usual.accept(ratio)
        behind = row + 1
    context.updates.wait(stop - behind)
    context.weights.look_all(facts.block, sampled, start, stop, steady=steady)


def _take_in_ranks(context: Context, facts: Facts, start: int, stop: int) -> None:
    behind = start
    known = facts.of_ranks
    for row in known[bisect_left(known, start) : bisect_left(known, stop)]:
        norms, losses = facts.spreads(row)
        context.ranks.wait(row - behind)
        context.ranks.look(norms, losses)
        context.ranks.accept(norms, losses)
        behind = row + 1
    context.ranks.wait(stop - behind)
