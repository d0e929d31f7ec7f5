"""What is stored densely is what was stored plainly: to the bit, or rounded by no more than was promised."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seismograd_server.model import Float32, RecordKind, StepBatch
from seismograd_server.store.codec import decode_dense, encode_dense, slice_batch
from seismograd_server.store.dense import pack_dense, unpack_dense
from seismograd_server.store.mantissa import round_mantissa
from seismograd_server.store.merging import merge
from tests.property.test_codec import batches, exactly, float32, record

TYPES = (np.uint8, np.uint16, np.uint32, np.uint64, np.int64, np.float32, np.float64)


def bits_of(values: Float32) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.ascontiguousarray(values).view(np.uint32)


@given(st.lists(batches(), min_size=1, max_size=3))
def test_what_is_encoded_densely_is_decoded_to_the_bit(some: list[StepBatch]) -> None:
    assert all_exactly(decode_dense(encode_dense(some))) == all_exactly(some)


@given(st.data(), st.sampled_from(TYPES), st.integers(0, 600), st.none() | st.integers(0, 5))
def test_a_column_of_any_type_and_length_comes_back(
    data: st.DataObject, dtype: type[np.generic], length: int, width: int | None
) -> None:
    shape = (length,) if width is None else (length, width)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    # Few different bytes at times, so that the codec finds something to save.
    raw = data.draw(arrays.arrays(np.uint8, size, elements=st.integers(0, data.draw(st.sampled_from([0, 3, 255])))))
    column = raw.view(dtype).reshape(shape)
    columns, end = unpack_dense(packed := pack_dense([(7, column)]))
    assert end == len(packed)
    assert exactly(columns) == exactly({7: column})
    assert columns[7].flags.c_contiguous


@given(float32((12,)), st.integers(1, 22))
def test_rounding_keeps_its_promise(values: Float32, bits: int) -> None:
    rounded = round_mantissa(values, bits)
    exponents = bits_of(values) & 0x7F800000
    special = (exponents == 0) | (exponents == 0x7F800000)
    assert (bits_of(rounded)[special] == bits_of(values)[special]).all(), "to the bit, NaN and subnormals too"
    assert np.isfinite(rounded[~special]).all()
    exact, near = values[~special].astype(np.float64), rounded[~special].astype(np.float64)
    assert (np.abs(near - exact) <= np.abs(exact) * 2.0 ** -(bits + 1)).all()
    assert exactly(round_mantissa(rounded, bits)) == exactly(rounded), "once more changes nothing"


@given(st.floats(2.0**-126, 2.0**120, width=32), st.integers(1, 22))
def test_rounding_takes_the_nearest_and_of_two_the_even_one(value: float, bits: int) -> None:
    mantissa, exponent = np.frexp(np.float64(value))
    expected = np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)  # rint: ties to even
    assert float(round_mantissa(np.array([value], np.float32), bits)[0]) == float(expected)


def test_rounding_keeps_the_largest_numbers_finite() -> None:
    largest = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max], np.float32)
    assert exactly(round_mantissa(largest, 12)) == exactly(largest)


@pytest.mark.parametrize("bits", [0, 24])
def test_rounding_refuses_what_is_no_mantissa(bits: int) -> None:
    with pytest.raises(ValueError, match=f"not {bits}"):
        round_mantissa(np.ones(1, np.float32), bits)


@st.composite
def streams(draw: st.DrawFn) -> list[StepBatch]:
    """Batches of one stream with rising sequences, most of them cut from larger ones, some with a hole before them."""
    found: list[StepBatch] = []
    sequence = step = 0
    for batch in draw(st.lists(batches(), min_size=1, max_size=3)):
        sequence += draw(st.sampled_from([0, 0, 3]))
        steps = step + np.arange(batch.count, dtype=np.int64)
        changes: dict[str, Any] = {
            "rank_handle": 1,
            "optimizer": 0,
            "kind": RecordKind.STEP,
            "branch": 0,
            "rounded": False,
        }
        version = batch.catalog_version % 2
        whole = replace(batch, **changes, catalog_version=version, first_sequence=sequence, steps=steps)
        cuts = sorted({0, batch.count, *draw(st.lists(st.integers(0, batch.count), max_size=3))})
        found += [slice_batch(whole, start, stop) for start, stop in itertools.pairwise(cuts)]
        sequence, step = whole.end_sequence, int(steps[-1]) + 1
    return found


def all_exactly(some: Iterable[StepBatch]) -> list[Any]:
    return [exactly(batch) for batch in some]


def records(some: list[StepBatch]) -> list[dict[str, Any]]:
    return [record(batch, row) for batch in some for row in range(batch.count)]


@given(streams(), st.randoms())
def test_merging_in_any_order_keeps_every_record_to_the_bit(some: list[StepBatch], random: Any) -> None:
    expected = records(some)
    random.shuffle(some)
    merged = merge(some)
    assert records(merged) == expected
    assert len(merged) <= len(some)
    assert all_exactly(merge(merged)) == all_exactly(merged), "nothing is left to merge"


@given(streams(), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=2))
def test_only_norms_outside_of_the_windows_are_rounded(some: list[StepBatch], spans: list[tuple[int, int]]) -> None:
    windows = [(first, first + length) for first, length in spans]
    merged = merge(some, 12, windows)

    expected, found = records(some), records(merged)
    for each in (*expected, *found):
        each.pop("gradient_norms")
    assert found == expected
    norms = [row for batch in some if batch.gradient_norms is not None for row in batch.gradient_norms]
    steps = [step for batch in some if batch.gradient_norms is not None for step in batch.steps.tolist()]
    after = [row for batch in merged if batch.gradient_norms is not None for row in batch.gradient_norms]
    for step, before, now in zip(steps, norms, after, strict=True):
        exact = any(first <= step <= last for first, last in windows)
        assert exactly(now) == exactly(before if exact else round_mantissa(before, 12))
    assert all_exactly(merge(merged, 12, windows)) == all_exactly(merged), "once more changes nothing"


@given(st.lists(batches(), min_size=1, max_size=2), st.data())
def test_any_flipped_bit_and_any_truncation_is_found(some: list[StepBatch], data: st.DataObject) -> None:
    whole = encode_dense(some)
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="stored columns"):
        decode_dense(bytes(flipped))
    shorter = whole[: data.draw(st.integers(1, len(whole) - 1))]
    with contextlib.suppress(ValueError):
        assert len(decode_dense(shorter)) < len(some), "a cut between two batches leaves the first ones whole"
