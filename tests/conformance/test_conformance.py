"""Every way of sharing a model gives the norms that one process finds, and training does not notice."""

from __future__ import annotations

import numpy as np
import pytest

from seismograd_server.model import NormSource, RecordFlag
from tests.conformance.cases import CASES
from tests.conformance.models import INITIAL_SCALE, OVERFLOW, STEPS, THRESHOLD
from tests.conformance.world import Result, run_world

# Gradients in float32 that were added up in another order differ by some 4e-7 of their norm.
TOLERANCE = 1e-6


@pytest.fixture(
    params=[(world, case.name) for world in (2, 4) for case in CASES if world in case.worlds],
    ids=lambda chosen: f"{chosen[1]} on {chosen[0]}",
)
def result(request: pytest.FixtureRequest) -> Result:
    """A case on so many processes; the first test that asks starts them."""
    world, name = request.param
    return run_world(world)[name]


def test_composed_norms_are_those_of_one_process(result: Result) -> None:
    (block,) = result.blocks
    assert block.count == STEPS
    assert block.ranks_present.all()
    if result.case.flat:
        assert set(block.layout.names) == {"_flat_param", *(f"blocks.{index}._flat_param" for index in range(4))}
    else:
        assert set(block.layout.names) == set(result.truth.layers[0])
        assert result.layer_error < TOLERANCE
    if not result.case.summands:
        assert result.global_error < TOLERANCE
        assert not result.unknown_layers


def test_what_does_not_compose_is_marked_and_nothing_else(result: Result) -> None:
    (block,) = result.blocks
    expected = {name for name in block.layout.names if result.case.summands and result.case.summands in name}
    assert result.unknown_layers == expected
    assert block.inexact.tolist() == [bool(expected)] * STEPS
    # What is left is not made up: it is the norm of the layers that are known.
    if expected:
        known = np.sqrt(np.square(np.nan_to_num(block.layer_norms.astype(np.float64))).sum(axis=1))
        np.testing.assert_allclose(block.global_norm, known, rtol=TOLERANCE)


def test_norms_of_flat_parameters_say_so(result: Result) -> None:
    (block,) = result.blocks
    assert set((block.flags & RecordFlag.FLATTENED).tolist()) == {RecordFlag.FLATTENED if result.case.flat else 0}


def test_an_explosion_behind_the_clipping_is_there_for_all_to_see(result: Result) -> None:
    (block,) = result.blocks
    expected = [NormSource.CLIP if result.case.clips else NormSource.OPTIMIZER_STEP] * STEPS
    if result.case.scales:
        expected[OVERFLOW] = NormSource.SCALER_SKIP
    assert block.sources.tolist() == expected
    assert block.global_norm[-1] > 30 * block.global_norm[0]
    if result.case.clips:
        assert block.global_norm[-1] > 10 * THRESHOLD
        assert (block.flags[-2:] & RecordFlag.CLIPPED == RecordFlag.CLIPPED).all()
        np.testing.assert_allclose(block.clip_coefficient[-1], THRESHOLD / block.global_norm[-1], rtol=1e-5)


def test_a_step_that_the_loss_scaler_skips_is_back_off_with_its_scale(result: Result) -> None:
    (block,) = result.blocks
    skipped = (block.flags & RecordFlag.SKIPPED_BY_SCALER != 0).tolist()
    assert skipped == [result.case.scales and step == OVERFLOW for step in range(STEPS)]
    assert block.nonfinite.any(axis=1).tolist() == skipped
    if result.case.scales:
        # It backs off after the step that it skipped.
        after = INITIAL_SCALE / 2.0
        assert block.loss_scale.tolist() == [INITIAL_SCALE if step <= OVERFLOW else after for step in range(STEPS)]


def test_replicas_agree(result: Result) -> None:
    assert [block.replica_gaps for block in result.blocks] == [()]


def test_training_is_the_same_to_the_last_bit_with_no_collective_more(result: Result) -> None:
    for report in result.reports:
        assert report.watched == report.plain
        assert report.broken == {}
