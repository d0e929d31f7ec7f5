"""`depth_growth`: gradients grow from layer to layer on their way back, from the last to the first.

The slope of log2 RMS gradient (norm over the root of the number of elements) against depth is, as a factor, the growth
per layer (the gradient's Lyapunov exponent); times the depth, how much larger the first layer's gradient is than the
last one's. Weights and biases are fitted apart, because they measure different things: a bias receives the error that
travels back, a weight the error times the activation. Where activations explode forwards, as they do with ReLU, their
growth hides that of the errors in the weights, and the biases show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite, norm_evidence
from seismograd_server.detect.facts import Step
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import (
    DetectorStatus,
    Evidence,
    Finding,
    Float32,
    Float64,
    Int64,
    Layout,
    Severity,
    Signature,
    Visibility,
)

# Far more than the last bits in which a fit of many looks differs from that of one.
_NEARLY_OCTAVES = 0.001


@dataclass(frozen=True, slots=True)
class DepthGrowthConfig:
    """Thresholds of `depth_growth`."""

    # Over fewer layers any three numbers make a line.
    least_layers: int = 6
    # In all a factor of 64 and seven percent a layer; healthy networks stay within a factor of ten over any depth.
    total_octaves: float = 6.0
    layer_octaves: float = 0.1
    # A line that explains less than this of how the layers differ is not the reason for it.
    fit: float = 0.7
    # Looked at in each of the first steps, when a bad initialisation shows and kills, and then now and then; so many
    # looks in a row rule out a bad batch.
    first_steps: int = 16
    every_steps: int = 64
    looks: int = 3
    # A high level: updates of an eighth of the weights, or a norm that is far above all of recent memory.
    high_ratio: float = -3.0


@dataclass(frozen=True, slots=True)
class DepthFit:
    """A line through the layers' log2 RMS gradients.

    Attributes:
        octaves: growth per layer towards the first one.
        layers: how many layers it was fitted to.
        fit: the share of the variance that it explains.
        kind: of the tensors: "weights" or "biases".
    """

    octaves: float
    layers: int
    fit: float
    kind: str

    @property
    def total(self) -> float:
        """Octaves from the last layer to the first."""
        return self.octaves * (self.layers - 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """The tensors of one kind: int64[k] indexes in forward order, float64[k] octaves of norm over RMS.

    `depths`, float64[k], are their places in that order, counted from the middle.
    """

    name: str
    layers: Int64
    scales: Float64
    depths: Float64


@dataclass(slots=True)
class DepthGrowthDetector:
    """Warns when growth over the depth shows at several looks in a row; critical with a high level."""

    signature: ClassVar[Signature] = Signature.DEPTH_GROWTH

    config: DepthGrowthConfig = field(default=DepthGrowthConfig(), metadata=SETTING)
    severity: int = Severity.NONE
    since_step: int = 0
    steps: int = 0
    looks: int = 0  # in a row that disagree with what was told
    deep: bool = True  # whether the layout has enough layers of one kind
    known: Any = field(default=None, metadata=SETTING)  # (layout, its kinds), so that they are not sought at every look

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        if not context.reading.judged:
            return None
        self.steps += 1
        if not self._is_look(self.steps):
            return None
        grown = self._grown(step.block.layout, step.layer_norms)
        if grown is None:
            return self._even(step)
        if self.severity != Severity.NONE:
            self.looks = 0
        else:
            self.since_step = step.step if self.looks == 0 else self.since_step
            self.looks += 1
        severity = Severity.CRITICAL if self._is_high(context) else Severity.WARNING
        if severity <= self.severity or (self.severity == Severity.NONE and self.looks < self.config.looks):
            return None
        self.severity, self.looks = severity, 0
        return Finding(
            self.signature,
            severity,
            "",
            step.step,
            self.since_step,
            self._evidence(step, context, grown),
            f"gradients grow {2.0**grown.octaves:.2f} x per layer on their way back, 2^{grown.total:.0f} over "
            f"{grown.layers} {grown.kind}{', and the norm is high' if severity is Severity.CRITICAL else ''}",
        )

    def _is_look(self, steps: int) -> bool:
        return steps <= self.config.first_steps or steps % self.config.every_steps == 0

    def _even(self, step: Step) -> Finding | None:
        """A look without growth: nothing, or the end of it at several in a row."""
        self.looks = 0 if self.severity == Severity.NONE else self.looks + 1
        if self.severity == Severity.NONE or self.looks < self.config.looks:
            return None
        self.severity, self.looks = Severity.NONE, 0
        reason = "gradients no longer grow over the depth"
        return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)

    def _is_high(self, context: Context) -> bool:
        reading = context.reading
        return reading.runs_away or (reading.high and not reading.ratio < self.config.high_ratio)

    def _evidence(self, step: Step, context: Context, grown: DepthFit) -> Evidence:
        evidence = norm_evidence(step, context)
        kind = next(each for each in self.kinds(step.block.layout) if each.name == grown.kind)
        numbers = {"octaves_per_layer": grown.octaves, "octaves_over_depth": grown.total, "fit": grown.fit}
        return replace(
            evidence,
            value=finite(2.0**grown.octaves),
            baseline=1.0,
            threshold=2.0 ** max(self.config.layer_octaves, self.config.total_octaves / (grown.layers - 1)),
            leading_layer=step.block.layout.names[int(kind.layers[0])],
            details={**evidence.details, **numbers, "layers": grown.layers, "kind": grown.kind},
        )

    def kinds(self, layout: Layout) -> tuple[_Kind, ...]:
        """The tensors that are looked at; the same object for all runs of a model."""
        if self.known is None or self.known[0] is not layout:
            self.known = (layout, kinds_of(layout, self.config.least_layers))
        found: tuple[_Kind, ...] = self.known[1]
        self.deep = bool(found)
        return found

    def _grown(self, layout: Layout, norms: Float32) -> DepthFit | None:
        """The steepest growth over the depth that is beyond the thresholds; None = there is none."""
        config, kinds = self.config, self.kinds(layout)
        fits = [fit for kind in kinds if (fit := fit_depth(kind, norms, config.least_layers)) is not None]
        grown = [
            each
            for each in fits
            if each.total >= config.total_octaves and each.octaves >= config.layer_octaves and each.fit >= config.fit
        ]
        return max(grown, key=lambda each: each.total, default=None)

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until a look that finds something else than what was told."""
        return self.idle_all([self], [stretch])[0]

    @staticmethod
    def idle_all(detectors: Sequence[DepthGrowthDetector], stretches: Sequence[Stretch]) -> list[int]:
        """The same of many runs: looks at one kind of model are fitted at once, whoever's they are."""
        found = [0 if each.looks else stretch.count for each, stretch in zip(detectors, stretches, strict=True)]
        looks = {
            number: rows
            for number, (each, stretch) in enumerate(zip(detectors, stretches, strict=True))
            if not each.looks and (rows := each.looks_within(stretch))
        }
        alike: dict[tuple[int, float], tuple[tuple[_Kind, ...], list[int]]] = {}
        for number in looks:
            each, kinds = detectors[number], detectors[number].kinds(stretches[number].layout)
            if kinds and each.severity == Severity.NONE:  # in a model that is not deep nothing is found anyway
                alike.setdefault((id(kinds), each.config.total_octaves), (kinds, []))[1].append(number)
        for (_, octaves), (kinds, numbers) in alike.items():
            norms = np.concatenate([stretches[number].layer_norms[looks[number]] for number in numbers])
            doubts = iter(may_grow(kinds, norms, octaves))
            for number in numbers:
                rows = looks[number]
                looks[number] = [row for row, doubt in zip(rows, islice(doubts, len(rows)), strict=True) if doubt]
        for number, rows in looks.items():
            found[number] = detectors[number].until_news(stretches[number], rows)
        return found

    def looks_within(self, stretch: Stretch) -> list[int]:
        """Rows of a stretch that will be looked at, counted from its start."""
        first = -(self.steps + 1) % self.config.every_steps
        if first >= stretch.count and self.steps >= self.config.first_steps:
            return []
        early = range(min(stretch.count, self.config.first_steps - self.steps))
        return sorted({*early, *range(first, stretch.count, self.config.every_steps)})

    def until_news(self, stretch: Stretch, rows: list[int]) -> int:
        """The first of these rows at which something else is found than what was told; else the end of the stretch."""
        told = self.severity != Severity.NONE
        news = (row for row in rows if (self._grown(stretch.layout, stretch.layer_norms[row]) is not None) != told)
        return next(news, stretch.count)

    def skip(self, stretch: Stretch) -> None:
        """Steps are counted."""
        self.steps += stretch.count

    def status(self, context: Context) -> DetectorStatus:
        """Armed from the first look on, in a network that is deep enough and whose layers are known."""
        if not self.deep:
            because = f"fewer than {self.config.least_layers} layers whose gradients are known"
            return DetectorStatus(self.signature, Visibility.BLIND, because)
        if context.seen and not self.steps:
            return DetectorStatus(self.signature, Visibility.BLIND, "the gradient norm is zero or not known")
        return DetectorStatus(self.signature, Visibility.ARMED, "")


# Vectors of a normalisation have no place in a chain of products, embeddings stand outside it.
_OUTSIDE = ("norm", "embedding", "ln", "bn")


def kinds_of(layout: Layout, least: int) -> tuple[_Kind, ...]:
    """The weights and the biases of a layout in forward order; a kind with fewer than `least` of them is left out."""
    return _kinds_of(layout.names, layout.module_types, layout.depths, layout.numels, least)


@lru_cache(maxsize=16)  # runs of one model share what it is made of; each keeps its own, so these are the latest only
def _kinds_of(
    names: tuple[str, ...], types: tuple[str, ...], depths: tuple[int, ...], numels: tuple[int, ...], least: int
) -> tuple[_Kind, ...]:
    places = np.asarray(depths, dtype=np.int64)
    order = np.argsort(places, kind="stable") if (places >= 0).all() else np.arange(len(places))
    chosen: dict[str, list[int]] = {"weights": [], "biases": []}
    for layer in order.tolist():
        path = names[layer].lower().split(".")
        around = [*path[:-1], types[layer].lower()]
        if any(each.startswith(_OUTSIDE) or "norm" in each for each in around):
            continue
        kind = "weights" if path[-1].startswith("weight") else "biases" if path[-1].startswith("bias") else ""
        if kind:
            chosen[kind].append(layer)
    elements = np.maximum(1.0, np.asarray(numels, dtype=np.float64))
    return tuple(
        _Kind(
            name,
            np.asarray(layers, dtype=np.int64),
            0.5 * np.log2(elements[layers]),
            centred(np.arange(len(layers), dtype=np.float64)),
        )
        for name, layers in chosen.items()
        if len(layers) >= least
    )


def may_grow(kinds: Sequence[_Kind], norms: Float32, least: float) -> list[bool]:
    """Whether the growth in each of some looks, norms float32[k, l], may reach so many octaves over the depth.

    All of them are fitted at once, nearly as `fit_depth` does.
    """
    doubtful = np.zeros(len(norms), np.bool_)
    with np.errstate(divide="ignore", invalid="ignore"):  # a layer without a gradient leaves doubt
        for kind in kinds:
            levels = np.log2(norms[:, kind.layers].astype(np.float64)) - kind.scales
            totals = levels @ kind.depths * ((1 - len(kind.layers)) / float(kind.depths @ kind.depths))
            doubtful |= ~(np.isfinite(totals) & (totals < least - _NEARLY_OCTAVES))
    found: list[bool] = doubtful.tolist()
    return found


def fit_depth(kind: _Kind, norms: Float32, least: int) -> DepthFit | None:
    """Fit a line to the layers that have a gradient, by least squares; None = there are fewer than `least`."""
    values, scales, depths = norms[kind.layers].astype(np.float64), kind.scales, kind.depths
    # Not by `min` and `max`, which of a few numbers take three times as long. Seldom do not all of them have one.
    if not np.minimum.reduce(values) > 0.0 or not np.maximum.reduce(values) < np.inf:
        known = np.flatnonzero((values > 0.0) & (values < np.inf))
        if len(known) < least:
            return None
        values, scales, depths = values[known], scales[known], centred(known.astype(np.float64))
    levels = centred(np.log2(values) - scales)
    spread, variance = float(depths @ depths), float(levels @ levels)
    slope = float(depths @ levels) / spread
    fit = slope * slope * spread / variance if variance > 0.0 else 0.0
    return DepthFit(-slope, len(kind.layers), min(1.0, fit) if math.isfinite(fit) else 0.0, kind.name)


def centred(values: Float64) -> Float64:
    """Values less their mean."""
    found: Float64 = values - np.add.reduce(values) / len(values)
    return found
