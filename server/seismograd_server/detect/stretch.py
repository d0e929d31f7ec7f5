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
from operator import sub

from seismograd_server.detect.baseline import Baseline, follow_all
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
    norm: Baseline  # after the stretch
    centers: list[float]  # of the norm's baseline, before each step
    lowest: float  # of these
    highest: float  # of these
    loss: Baseline  # after the stretch
    loss_rows: list[int]  # steps of known loss, counted from the start
    losses: list[float]  # of these steps
    loss_centers: list[float]  # of the loss's baseline before each of these, and after the last; NaN = none yet
    best_loss: float  # the lowest of these
    worst_loss: float  # the highest of these
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
        return self.loss_centers[bisect_left(self.loss_rows, row)]

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
    norm = context.norm.copy()
    count = len(centers := norm.accept_all(facts.levels[start:stop], below=CALM_OCTAVES))
    rows = facts.rows_of_loss(start, start + count)
    if not count or (rows and not _knows_losses(context)):
        return None
    losses = [facts.losses[row] for row in rows]
    loss, loss_centers = _follow_loss(context, losses)
    return Stretch(
        facts=facts,
        start=start,
        count=count,
        norm=norm,
        centers=centers,
        lowest=min(centers),
        highest=max(centers),
        loss=loss,
        loss_rows=[row - start for row in rows],
        losses=losses,
        loss_centers=loss_centers,
        best_loss=min(loss_centers),
        worst_loss=max(loss_centers),
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
        facts[number].losses if len(own) == facts[number].count else [facts[number].losses[row] for row in own]
        for number, own in zip(calm, rows, strict=True)
    ]
    norms = follow_all([contexts[number].norm for number in calm], [facts[number].levels for number in calm])
    usual_losses = follow_all([contexts[number].loss for number in calm], losses)
    steady = are_steady(
        [contexts[number].weights for number in calm],
        [facts[number].block for number in calm],
        [facts[number].sampled for number in calm],
    )
    found: list[Stretch | None] = [None] * len(facts)
    for place, number in enumerate(calm):
        each, (norm, centers), (loss, loss_centers) = facts[number], norms[place], usual_losses[place]
        lowest = min(centers)
        # The first is the rougher one, and nearly always enough.
        if max(each.levels) - lowest < CALM_OCTAVES or max(map(sub, each.levels, centers)) < CALM_OCTAVES:
            loss_centers.append(loss.center())
            found[number] = Stretch(
                facts=each,
                start=0,
                count=each.count,
                norm=norm,
                centers=centers,
                lowest=lowest,
                highest=max(centers),
                loss=loss,
                loss_rows=rows[place],
                losses=losses[place],
                loss_centers=loss_centers,
                best_loss=min(loss_centers),
                worst_loss=max(loss_centers),
                untrained=contexts[number].untrained_level(),
                steady=steady[place],
            )
    return found


def _follow_loss(context: Context, losses: list[float]) -> tuple[Baseline, list[float]]:
    if not losses:
        return context.loss, [context.loss.center()]
    loss = context.loss.copy()
    centers = loss.accept_all(losses)
    return loss, [*centers, loss.center()]


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


def take_in(context: Context, stretch: Stretch, count: int) -> None:
    """Learn from the first `count` steps of a stretch."""
    facts, start, stop = stretch.facts, stretch.start, stretch.start + count
    levels = facts.levels[start:stop]
    if count < stretch.count:
        _shorten(stretch, context, levels)
    context.seen += count
    context.last_step = facts.steps[stop - 1]
    context.lowest = min(context.lowest, stretch.lowest, stretch.norm.center())
    context.norm = stretch.norm
    context.record.accept_all(levels)
    context.excursion.remember_all(facts.steps[start:stop], levels)
    context.layers.accept_all(stretch.layer_norms)
    _take_in_losses(context, stretch)
    _take_in_samples(context, facts, start, stop, steady=stretch.steady)
    _take_in_ranks(context, facts, start, stop)


def _shorten(stretch: Stretch, context: Context, levels: list[float]) -> None:
    """Follow the usual once more, not so far."""
    stretch.count = len(levels)
    stretch.norm = context.norm.copy()
    stretch.centers = stretch.norm.accept_all(levels)
    stretch.lowest, stretch.highest = min(stretch.centers), max(stretch.centers)
    known = bisect_left(stretch.loss_rows, stretch.count)
    stretch.loss_rows, stretch.losses = stretch.loss_rows[:known], stretch.losses[:known]
    stretch.loss, stretch.loss_centers = _follow_loss(context, stretch.losses)
    stretch.best_loss, stretch.worst_loss = min(stretch.loss_centers), max(stretch.loss_centers)


def _take_in_losses(context: Context, stretch: Stretch) -> None:
    if not stretch.losses:
        return
    deviations = list(map(abs, map(sub, stretch.losses, stretch.loss_centers)))
    if not min(deviations) > 0.0:
        deviations = [each for each in deviations if each > 0.0]
    context.loss_record.accept_all(list(map(math.log2, deviations)))
    context.remember_losses(stretch.losses)
    context.loss = stretch.loss


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
