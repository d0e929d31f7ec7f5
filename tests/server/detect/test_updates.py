"""Learning the optimizer's kind from real optimizers, and estimating its updates between samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from seismograd_server.detect.facts import Step
from seismograd_server.detect.updates import Updates
from seismograd_server.model import ClosedBlock
from tests.support.closed import run_of, steps_of

MakeOptimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
RATE, STEPS, OUTLIER = 0.01, 60, 50


def train(make: MakeOptimizer, *, every: int) -> tuple[ClosedBlock, list[float]]:
    """Noisy gradients with one outlier; updates are seen every so many steps, and their true ratios are returned."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.nn.Parameter(torch.randn(400, generator=generator))
    optimizer = make([weights])
    norms, weight_norms, update_norms = [], [], []
    for step in range(STEPS):
        weights.grad = torch.randn(400, generator=generator) * (1000.0 if step == OUTLIER else 0.5)
        before = weights.detach().clone()
        norms.append(float(weights.grad.norm()))
        optimizer.step()
        weight_norms.append(float(before.norm()))
        update_norms.append(float((weights.detach() - before).norm()))
    true = np.log2(np.divide(update_norms, weight_norms)).tolist()
    block = replace(
        run_of(norms, learning_rate=np.full(STEPS, RATE)),
        weight_norms=spread_over_layers(weight_norms, every),
        update_norms=spread_over_layers(update_norms, every),
    )
    return block, true


def spread_over_layers(norms: list[float], every: int) -> npt.NDArray[np.float32]:
    """Norms of a whole model as those of its three equal layers, NaN where they are not sampled."""
    columns = np.repeat(np.asarray(norms)[:, None] / np.sqrt(3.0), 3, axis=1)
    columns[np.arange(len(norms)) % every != 0] = np.nan
    return columns.astype(np.float32)


def learn(block: ClosedBlock, until: int) -> tuple[Updates, Step]:
    updates = Updates()
    for step in steps_of(block):
        updates.look(step)
        if step.step == until:
            return updates, step
    raise AssertionError(until)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_first_update_of_sgd_gives_it_away(momentum: float) -> None:
    block, true = train(lambda weights: torch.optim.SGD(weights, lr=RATE, momentum=momentum), every=7)
    updates, step = learn(block, OUTLIER)
    assert updates.plain()
    assert np.isnan(step.ratio)
    assert updates.estimate(step, steps_out=1) == pytest.approx(true[OUTLIER], abs=0.2)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_updates_of_a_normalising_optimizer_are_known_to_hardly_follow_the_norm(
    kind: type[torch.optim.Optimizer],
) -> None:
    block, true = train(lambda weights: kind(weights, lr=RATE), every=7)  # type: ignore[call-arg] # every optimizer has lr
    updates, step = learn(block, OUTLIER)
    assert updates.normalised()
    estimate = updates.estimate(step, steps_out=1)
    plain = np.log2(RATE * step.norm) - updates.weight
    assert estimate < plain - 3.0
    if kind is not torch.optim.RMSprop:  # without the damping first moment it jumps further than is allowed for
        assert estimate >= true[OUTLIER]


def test_a_run_that_was_joined_in_the_middle_is_not_guessed_at() -> None:
    block, _ = train(lambda weights: torch.optim.SGD(weights, lr=RATE, momentum=0.9), every=7)
    updates = Updates()
    steps = list(steps_of(block))
    for step in steps[3:OUTLIER]:
        updates.look(step)
    assert not updates.plain()
    assert not updates.normalised()
    assert np.isnan(updates.estimate(steps[OUTLIER], steps_out=1))


def test_a_sample_is_believed_as_it_is() -> None:
    block, true = train(lambda weights: torch.optim.Adam(weights, lr=RATE), every=1)
    updates, step = learn(block, OUTLIER)
    assert updates.estimate(step, steps_out=1) == pytest.approx(true[OUTLIER], abs=1e-3)


def test_an_old_sample_says_nothing() -> None:
    updates, step = learn(train(lambda weights: torch.optim.SGD(weights, lr=RATE), every=7)[0], OUTLIER)
    updates.age = 100
    assert np.isnan(updates.estimate(step, steps_out=0))


def test_an_update_whose_total_equals_rate_times_norm_by_chance_is_no_proof_of_sgd() -> None:
    block, _ = train(lambda weights: torch.optim.SGD(weights, RATE), every=10)
    assert learn(block, STEPS - 1)[0].plain()
    # The same total at every step, of layers that do not share it as the gradient does: Adam's depends on their sizes.
    shares = np.sqrt(np.array([0.1, 0.1, 2.8]))
    by_chance = replace(block, layer_norms=(block.layer_norms * shares).astype(np.float32))
    assert not learn(by_chance, STEPS - 1)[0].plain()
    assert learn(by_chance, STEPS - 1)[0].normalised()
