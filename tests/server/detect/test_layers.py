"""The memory of layers, against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seismograd_server.detect.layers import LayerMemory
from tests.support.closed import LAYERS, layout, run_of, steps_of

NORMS = st.one_of(st.floats(2.0**-20, 2.0**20, width=32), st.sampled_from([0.0, np.nan]))


def remember(norms: npt.NDArray[np.float32]) -> LayerMemory:
    memory = LayerMemory()
    for step in steps_of(replace(run_of(np.ones(len(norms))), layer_norms=norms)):
        memory.accept(step)
    return memory


@given(arrays(np.float32, st.tuples(st.integers(1, 90), st.just(3)), elements=NORMS))
def test_usual_levels_are_lower_medians_over_every_fourth_step(norms: npt.NDArray[np.float32]) -> None:
    usual = remember(norms).usual(3)
    assert usual is not None
    kept = norms[::4][-16:]
    for layer in range(3):
        column = np.sort(kept[:, layer][~np.isnan(kept[:, layer])])
        if not len(column):
            assert np.isnan(usual[layer])
            continue
        middle = column[(len(column) - 1) // 2]
        assert usual[layer] == (np.log2(middle) if middle > 0 else -np.inf)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=NORMS),
    st.lists(arrays(np.float32, st.tuples(st.integers(1, 150), st.just(3)), elements=NORMS), max_size=3),
)
def test_many_steps_at_once_leave_what_they_leave_one_by_one(
    before: npt.NDArray[np.float32], blocks: list[npt.NDArray[np.float32]]
) -> None:
    alone, at_once = remember(np.concatenate([before, *blocks])), remember(before)
    for block in blocks:
        at_once.accept_all(block)
    at_once.settle()
    np.testing.assert_array_equal(at_once.rows, alone.rows)
    assert (at_once.next_row, at_once.filled, at_once.seen) == (alone.next_row, alone.filled, alone.seen)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=NORMS),
    arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=NORMS | st.just(np.inf)),
)
def test_the_range_of_steps_to_come_holds_every_usual_level_within_them(
    before: npt.NDArray[np.float32], block: npt.NDArray[np.float32]
) -> None:
    memory = remember(before)
    span = memory.range_with(block)
    for end in range(len(block) + 1):
        usual = remember(np.concatenate([before, block[:end]])).usual(3)
        assert usual is not None
        known = ~np.isnan(usual)
        if span is not None:
            assert (np.isnan(span[0]) == ~known).all()
            assert (span[0][known] <= usual[known]).all()
            assert (usual[known] <= span[1][known]).all()


KNOWN = st.one_of(st.floats(2.0**-20, 2.0**20, width=32), st.just(0.0))


@given(
    arrays(np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=KNOWN),
    arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=KNOWN),
)
def test_the_range_of_layers_that_all_are_known_goes_from_the_lowest_norm_to_the_highest(
    before: npt.NDArray[np.float32], block: npt.NDArray[np.float32]
) -> None:
    span = remember(before).range_with(block)
    assert span is not None
    kept = before[::4][-16:]
    norms = np.concatenate([kept, block[-len(before) % 4 :: 4]])
    with np.errstate(divide="ignore"):
        lowest, highest = np.log2(norms.min(axis=0)), np.log2(norms.max(axis=0))
    assert (span[0] <= lowest).all()
    assert (span[1] >= highest).all()
    np.testing.assert_allclose(span, (lowest, highest), rtol=0, atol=2.0**-14)


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_the_range_is_not_told_when_a_layer_is_known_at_times_only(unknown: float) -> None:
    known = np.ones((40, 3), dtype=np.float32)
    without = known.copy()
    without[:, 1] = unknown
    at_times = known.copy()
    at_times[::3, 1] = unknown
    assert remember(without).range_with(without) is not None
    assert remember(without).range_with(known) is None
    assert remember(known).range_with(without) is None
    assert remember(known).range_with(at_times) is None
    assert remember(without).range_with(at_times) is None


def test_the_layer_that_left_its_own_range_furthest_leads_though_another_is_larger() -> None:
    norms = np.tile(np.array([100.0, 1.0, 10.0], dtype=np.float32), (20, 1))
    memory = remember(norms)
    now = replace(run_of([1.0]), layer_norms=np.array([[150.0, 8.0, 20.0]], dtype=np.float32))
    assert memory.leading(next(steps_of(now))) == (LAYERS[1], 3.0)


def test_nothing_leads_when_no_layer_rises_or_none_is_known() -> None:
    memory = remember(np.ones((20, 3), dtype=np.float32))
    for norms in ([1.0, 1.0, 0.5], [np.nan, np.nan, np.nan], [0.0, 0.0, 0.0]):
        now = replace(run_of([1.0]), layer_norms=np.array([norms], dtype=np.float32))
        assert memory.leading(next(steps_of(now))) is None


def test_another_number_of_layers_begins_a_new_memory() -> None:
    memory = remember(np.ones((20, 3), dtype=np.float32))
    now = replace(run_of([1.0]), layer_norms=np.ones((1, 5), dtype=np.float32))
    step = next(steps_of(now))
    assert memory.rises(step) is None
    for _ in range(4):
        memory.accept(step)
    assert memory.usual(3) is None
    assert memory.usual(5) is not None


@pytest.mark.parametrize("at_once", [False, True])
def test_a_model_without_layers_has_a_memory_of_none(at_once: bool) -> None:
    nothing = np.empty((40, 0), np.float32)
    memory = LayerMemory() if at_once else remember(nothing)
    if at_once:
        memory.accept_all(nothing)

    usual = memory.usual(0)

    assert usual is not None
    assert usual.tolist() == []
    assert memory.usual(3) is None


def test_layers_that_rise_by_the_same_factor_are_even_and_others_are_not() -> None:
    usual = np.tile(np.array([1.0, 4.0, 16.0, 2.0, 8.0], dtype=np.float32), (20, 1))
    memory = remember(usual)
    names = layout([f"layer.{number}" for number in range(5)])

    def unevenness(factors: list[float]) -> float:
        norms = (usual[:1] * np.array(factors)).astype(np.float32)
        return memory.unevenness(next(steps_of(replace(run_of([1.0], layout=names), layer_norms=norms))))

    assert unevenness([32.0] * 5) == 0.0
    assert unevenness([32.0, 32.0, 32.0, 32.0, 1e6]) == 0.0  # a single layer says nothing about the shape
    assert unevenness([1.0, 4.0, 16.0, 64.0, 256.0]) == 4.0
    assert unevenness([32.0, 32.0, 32.0, np.nan, np.nan]) == np.inf  # too few to tell
