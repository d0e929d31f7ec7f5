"""Closed blocks for tests of detectors: a run written down as plain columns, healthy where nothing else is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from seismograd_server.detect.facts import Facts, Step
from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import ClosedBlock, Finding, Layout, NormSource, Severity, Signature

LAYERS = ("embed.weight", "rnn.weight_hh_l0", "head.weight")


def layout(names: Sequence[str] = LAYERS, ranks: int = 1, dtype: str = "float32") -> Layout:
    """Layers in forward order, of one element each, so that norm and root mean square are the same."""
    count = len(names)
    return Layout(ranks, tuple(names), ("",) * count, tuple(range(count)), (1,) * count, (dtype,) * count)


def noisy(steps: int, seed: int = 0, level: float = 0.0, octaves: float = 0.3) -> npt.NDArray[np.float64]:
    """Norms that scatter around 2^level, as healthy ones do."""
    generator = np.random.default_rng(seed)
    return np.asarray(2.0 ** generator.normal(level, octaves, steps))


def run_of(norms: Sequence[float] | npt.NDArray[np.float64], ranks: int = 1, **columns: Any) -> ClosedBlock:
    """One block with the whole run: the norm spreads evenly over the layers unless `layer_norms` says otherwise."""
    norm = np.asarray(norms, dtype=np.float64)
    count = len(norm)
    layers = columns.pop("layout", layout(ranks=ranks))
    width = len(layers.names)
    unknown, nothing = np.full(count, np.nan), np.full((count, width), np.nan, dtype=np.float32)
    with np.errstate(over="ignore"):
        even = np.repeat((norm / np.sqrt(width))[:, None], width, axis=1).astype(np.float32)
    block = ClosedBlock(
        layout=layers,
        attempt=1,
        branch=0,
        steps=np.arange(count, dtype=np.int64),
        times=np.arange(count, dtype=np.float64),
        ranks_present=np.ones((count, ranks), dtype=np.bool_),
        global_norm=norm,
        layer_norms=even,
        nonfinite=np.zeros((count, 3), dtype=np.int64),
        nonfinite_layers=(),
        inexact=np.zeros(count, dtype=np.bool_),
        sources=np.full(count, int(NormSource.CLIP), dtype=np.uint8),
        flags=np.zeros(count, dtype=np.uint16),
        loss=unknown,
        loss_known=np.zeros(count, dtype=np.bool_),
        rank_loss=np.full((count, ranks), np.nan),
        rank_loss_known=np.zeros((count, ranks), dtype=np.bool_),
        rank_norm=np.full((count, ranks), np.nan),
        learning_rate=unknown,
        loss_scale=unknown,
        clip_threshold=unknown,
        clip_coefficient=unknown,
        step_seconds=unknown,
        weight_norms=nothing,
        update_norms=nothing,
    )
    if "loss" in columns:
        columns["loss_known"] = columns.get("loss_known", np.ones(count, dtype=np.bool_))
    if "rank_loss" in columns:
        columns["rank_loss_known"] = np.ones((count, ranks), dtype=np.bool_)
    return replace(block, **columns)


def with_ratio(block: ClosedBlock, ratios: npt.NDArray[np.float64]) -> ClosedBlock:
    """The run with sampled updates: of weights of norm 1 a layer, by these shares of them."""
    ones = np.ones(block.layer_norms.shape, dtype=np.float32)
    updates = np.repeat(ratios[:, None], block.layer_norms.shape[1], axis=1).astype(np.float32)
    return replace(block, weight_norms=ones, update_norms=updates)


def steps_of(block: ClosedBlock) -> Iterator[Step]:
    """The steps of a block one by one, as the detectors see them."""
    facts = Facts(block)
    return (facts.step(row) for row in range(block.count))


class StepByStep(RunWatch):
    """The twin that looks at every single step, however calm: slow, and right by definition."""

    def _pass_by(self, *_: object) -> int:
        return 0


def findings_of(block: ClosedBlock, watch: RunWatch | None = None) -> list[Finding]:
    """What a watch finds in the run; a detector that fails fails the test."""
    observation = (watch or RunWatch()).observe(block)
    assert observation.failures == ()
    return list(observation.findings)


def told(findings: Iterable[Finding], signature: Signature) -> list[tuple[int, Severity]]:
    """Step and severity of each finding of a signature."""
    return [(each.step, each.severity) for each in findings if each.signature is signature]
