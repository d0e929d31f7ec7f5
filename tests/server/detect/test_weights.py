"""Weights that change by more than any update: the tensor to look at first."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.detect.watch import RunWatch
from seismograd_server.detect.weights import WeightMemory, are_steady
from seismograd_server.model import ClosedBlock, Signature
from tests.support.closed import LAYERS, findings_of, noisy, run_of

STEPS, ONSET = 300, 204


def run_with(weights: npt.NDArray[np.float64], every: int = 1) -> ClosedBlock:
    """A spike at the onset, led by the last layer's gradient; updates of 0.2 % of the weights."""
    norms = noisy(STEPS)
    norms[ONSET : ONSET + 12] *= 50.0
    layers = np.repeat(norms[:, None] / np.sqrt(3.0), 3, axis=1)
    layers[ONSET : ONSET + 12, 2] *= 10.0
    sampled = (np.arange(STEPS) % every == 0)[:, None]
    block = replace(run_of(norms), layer_norms=layers.astype(np.float32))
    return replace(
        block,
        weight_norms=np.where(sampled, weights, np.nan).astype(np.float32),
        update_norms=np.where(sampled, 0.002, np.nan).repeat(3, axis=1).astype(np.float32),
    )


def corrupted(layer: int, factor: float) -> npt.NDArray[np.float64]:
    weights = np.ones((STEPS, 3))
    weights[ONSET:, layer] *= factor
    return weights


@pytest.mark.parametrize(("every", "steps"), [(1, 0), (10, 6)])
@pytest.mark.parametrize("factor", [30.0, 0.0])
def test_the_tensor_that_no_update_changed_is_named_at_its_first_sample(every: int, steps: int, factor: float) -> None:
    found = [each for each in findings_of(run_with(corrupted(1, factor), every)) if each.signature is Signature.SPIKE]
    named = [(each.step, each.evidence.leading_layer) for each in found if each.evidence.leading_layer]
    assert (ONSET + steps, LAYERS[1]) in named
    assert "whose weights were changed by no update" in next(each.reason for each in found if each.step == named[-1][0])
    assert all(layer == LAYERS[1] for step, layer in named if step >= ONSET + steps)


@pytest.mark.parametrize("every", [1, 10])
def test_weights_that_move_as_their_updates_say_accuse_nobody(every: int) -> None:
    weights = 1.0 + 0.002 * np.arange(STEPS)[:, None] * np.array([[1.0, -0.5, 0.3]])
    found = findings_of(run_with(weights, every))
    assert {each.evidence.leading_layer for each in found if each.evidence.leading_layer} == {LAYERS[2]}


@pytest.mark.parametrize(("every", "accused"), [(1, True), (10, False)])
def test_where_no_update_was_seen_at_either_end_those_between_are_not_known(every: int, *, accused: bool) -> None:
    block = run_with(corrupted(1, 30.0), every)
    silent = np.where(np.isnan(block.update_norms), np.nan, 0.0).astype(np.float32)
    found = findings_of(replace(block, update_norms=silent))
    assert any("changed by no update" in each.reason for each in found) is accused


@pytest.mark.parametrize(("every", "accused"), [(1, True), (10, False)])
def test_weights_that_move_anyhow_accuse_nobody_for_the_steps_that_were_not_sampled(
    every: int, *, accused: bool
) -> None:
    block = run_with(corrupted(1, 30.0), every)
    growing = 1.02 ** np.clip(np.arange(STEPS) - (ONSET - 24), 0, 60)[:, None]
    block = replace(
        block,
        weight_norms=(block.weight_norms * growing).astype(np.float32),
        update_norms=(block.update_norms * 40.0).astype(np.float32),
    )
    # What made it thirty times as large may have been one of the updates that were not sampled.
    found = findings_of(block)
    assert any("changed by no update" in each.reason for each in found) is accused


def test_after_a_restart_the_weights_may_be_others() -> None:
    block = run_with(corrupted(1, 30.0))
    watch = RunWatch()
    before, after = (
        watch.observe(replace(part, attempt=attempt)).findings
        for attempt, part in enumerate((cut(block, 0, ONSET), cut(block, ONSET, STEPS)))
    )
    assert before == ()
    assert LAYERS[1] not in {each.evidence.leading_layer for each in after}


def cut(block: ClosedBlock, start: int, stop: int) -> ClosedBlock:
    names = [name for name in ClosedBlock.__dataclass_fields__ if isinstance(getattr(block, name), np.ndarray)]
    return replace(block, **{name: getattr(block, name)[start:stop] for name in names})


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_what_is_steady_among_many_runs_is_what_is_steady_alone(seed: int, runs: int) -> None:
    generator = np.random.default_rng(seed)
    memories, blocks, sampled = [], [], []
    for _ in range(runs):
        memory = WeightMemory()
        walk = np.cumprod(generator.choice([1.0, 1.05, 1.2, np.nan], (8, 3), p=[0.6, 0.3, 0.05, 0.05]), axis=0)
        block = run_with(np.resize(walk, (STEPS, 3)))
        if generator.random() < 0.9:
            memory.look_all(block, [0], 0, 1)
        memories.append(memory)
        blocks.append(block)
        sampled.append(sorted(generator.choice(np.arange(1, 8), generator.integers(0, 4), replace=False).tolist()))

    together = are_steady(memories, blocks, sampled)

    assert together == [
        are_steady([memory], [block], [rows])[0] for memory, block, rows in zip(memories, blocks, sampled, strict=True)
    ]
    for found, memory, block, rows in zip(together, memories, blocks, sampled, strict=True):
        samples = [memory.weights, *(block.weight_norms[row] for row in rows)]
        moved = [
            len(memory.weights) == 0 or bool((np.abs(after - before) > np.float32(0.1) * before).any())
            for before, after in pairwise(samples)
        ]
        assert found == (not any(moved))
