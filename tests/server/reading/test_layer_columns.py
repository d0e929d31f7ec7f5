"""A quantity of the layers in few columns: the largest of all steps in each, however the steps came."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.model import ClosedBlock, Float32, Quantity, RankLayers
from seismograd_server.reading.layer_columns import LayerThinning
from seismograd_server.reading.layers import LayerQuantity
from seismograd_server.reading.runs import find_run
from tests.support.closed import layout, run_of
from tests.support.reading import EXPLODING, Stocked
from tests.support.synthetic import exploding_norms

PLENTY = 2**20


def block(values: Float32, first: int, *, names: tuple[str, ...] = ("a", "b"), apart: int = 1) -> ClosedBlock:
    """Steps with these largest elements, and as local gradients of rank 1 with twice of them in every other step."""
    count = len(values)
    return run_of(
        np.ones(count),
        layout=layout(names),
        steps=first + np.arange(count) * apart,
        sampled={Quantity.MAX_ABS: values},
        rank_layers=(RankLayers(1, np.arange(0, count, 2), 2 * values[::2]),),
    )


def largest(values: Float32, each: int) -> Float32:
    return np.array([np.fmax.reduce(values[start : start + each], axis=0) for start in range(0, len(values), each)])


@given(data=st.data())
def test_columns_hold_the_largest_of_as_many_steps_each(data: st.DataObject) -> None:
    count, columns = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 40))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = generator.normal(size=(count, 2)).astype(np.float32)
    values[generator.random((count, 2)) < 0.5] = np.nan
    thinning = LayerThinning(LayerQuantity.MAX_ABS, 0, columns, PLENTY)
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count), max_size=8))})
    for start, stop in itertools.pairwise(cuts):
        thinning.add(block(values[start:stop], 7 + 3 * start, apart=3))
    found = thinning.found
    assert found is not None
    each = 1
    while -(-count // each) > columns:
        each *= 2
    np.testing.assert_array_equal(found.steps, 7 + 3 * np.arange(0, count, each))
    np.testing.assert_array_equal(found.values, largest(values, each))


def test_a_wide_model_gets_fewer_columns_and_always_one() -> None:
    values = np.arange(64, dtype=np.float32).reshape(32, 2)
    for most, columns in ((16, 8), (17, 8), (2, 1), (1, 1)):
        thinning = LayerThinning(LayerQuantity.MAX_ABS, 0, 100, most)
        thinning.add(block(values, 0))
        assert thinning.found is not None
        np.testing.assert_array_equal(thinning.found.values, largest(values, 32 // columns))


def test_steps_before_a_change_of_layers_are_forgotten() -> None:
    values = np.arange(80, dtype=np.float32).reshape(40, 2)
    thinning = LayerThinning(LayerQuantity.MAX_ABS, 0, 5, PLENTY)
    thinning.add(block(values, 0))
    thinning.add(block(values[:3], 40, names=("a", "c")))
    thinning.add(block(values[3:5], 43, names=("a", "c")))
    assert thinning.found is not None
    assert thinning.found.names == ("a", "c")
    assert thinning.found.steps.tolist() == [40, 41, 42, 43, 44]
    np.testing.assert_array_equal(thinning.found.values, values[:5])


def test_steps_of_which_no_record_is_left_take_nothing_from_the_others() -> None:
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    thinning = LayerThinning(LayerQuantity.MAX_ABS, 0, 10, PLENTY)
    thinning.add(block(values[:2], 0))
    bare = replace(block(values[:2], 2), layout=layout(()), layer_norms=values[:2, :0], sampled={}, rank_layers=())
    thinning.add(bare)
    thinning.add(block(values[2:], 4))
    thinning.add(bare)
    assert thinning.found is not None
    assert thinning.found.steps.tolist() == [0, 1, 4, 5]
    np.testing.assert_array_equal(thinning.found.values, values)


def test_of_local_gradients_those_of_one_rank_are_read() -> None:
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    for rank, expected in ((1, 2 * values[::2]), (0, np.full((2, 2), np.nan))):
        thinning = LayerThinning(LayerQuantity.LOCAL_GRADIENT_NORM, rank, 2, PLENTY)
        thinning.add(block(values, 0))
        assert thinning.found is not None
        np.testing.assert_array_equal(thinning.found.values, expected)


def test_where_no_layer_was_captured_there_are_no_columns() -> None:
    thinning = LayerThinning(LayerQuantity.MAX_ABS, 0, 5, PLENTY)
    assert thinning.found is None
    thinning.add(run_of(np.ones(4), layer_norms=np.full((4, 3), np.nan, np.float32)))
    assert thinning.found is None


def test_stored_steps_are_read_page_by_page(stocked: Stocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seismograd_server.reading.layers._SPAN_STEPS", 32)
    run = find_run(stocked.database, EXPLODING)
    thinning = LayerThinning(LayerQuantity.GRAD_NORM, 0, 25, PLENTY)
    assert list(thinning.read(stocked.database, run, 0, 0, 199)) == [32] * 6 + [8]
    assert thinning.found is not None
    np.testing.assert_allclose(thinning.found.values, largest(exploding_norms(200, 150), 8), rtol=1e-6)
