"""The segment codec is exact, and a slice holds exactly the records it names."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seismograd_server.model import (
    TOTAL_ONLY,
    Nonfinite,
    Quantity,
    RecordKind,
    ScalarColumn,
    StepBatch,
    TensorColumn,
)
from seismograd_server.store.codec import decode, encode, slice_batch

# Every bit pattern is a float: all kinds of NaN, both infinities, both zeros and subnormal numbers are among them.
PATTERNS_32 = st.integers(0, 2**32 - 1)
PATTERNS_64 = st.integers(0, 2**64 - 1)
EXTREMES_32 = st.sampled_from([0x7F800000, 0xFF800000, 0x7FC00000, 0x80000000, 0x00000001, 0x807FFFFF])
SCALARS = tuple(Quantity(number) for number in range(1, 10))
TENSORS = tuple(Quantity(number) for number in range(10, 15))


def float32(shape: tuple[int, ...]) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    patterns = arrays.arrays(np.uint32, shape, elements=PATTERNS_32 | EXTREMES_32)
    return patterns.map(lambda bits: bits.view(np.float32))


def float64(count: int) -> st.SearchStrategy[npt.NDArray[np.float64]]:
    return arrays.arrays(np.uint64, count, elements=PATTERNS_64).map(lambda bits: bits.view(np.float64))


def rows_of(count: int) -> st.SearchStrategy[npt.NDArray[np.uint32]]:
    return st.sets(st.integers(0, count - 1), min_size=1).map(lambda rows: np.array(sorted(rows), np.uint32))


@st.composite
def nonfinites(draw: st.DrawFn, count: int) -> Nonfinite:
    size = draw(st.integers(1, 6))
    rows = draw(arrays.arrays(np.uint32, size, elements=st.integers(0, count - 1)))
    parameters = draw(arrays.arrays(np.uint32, size, elements=st.just(TOTAL_ONLY) | st.integers(0, 5)))
    counts = [draw(arrays.arrays(np.uint64, size, elements=PATTERNS_64)) for _ in range(3)]
    return Nonfinite(rows, parameters, *counts)


@st.composite
def batches(draw: st.DrawFn) -> StepBatch:
    count, parameters = draw(st.integers(1, 8)), draw(st.integers(0, 4))
    scalars: dict[Quantity, ScalarColumn] = {}
    for quantity in draw(st.sets(st.sampled_from(SCALARS), max_size=4)):
        rows = draw(rows_of(count))
        scalars[quantity] = ScalarColumn(rows, draw(float64(len(rows))))
    tensors: dict[Quantity, TensorColumn] = {}
    for quantity in draw(st.sets(st.sampled_from(TENSORS), max_size=3)) if parameters else ():
        rows, columns = draw(rows_of(count)), draw(rows_of(parameters))
        tensors[quantity] = TensorColumn(rows, columns, draw(float32((len(rows), len(columns)))))
    return StepBatch(
        rank_handle=draw(st.integers(1, 2**63 - 1)),
        optimizer=draw(st.integers(0, 3)),
        kind=draw(st.sampled_from(RecordKind)),
        branch=draw(st.integers(0, 2**31)),
        first_sequence=draw(st.integers(0, 2**62)),
        catalog_version=draw(st.integers(0, 2**32 - 1)),
        steps=np.sort(draw(arrays.arrays(np.int64, count))),
        times=draw(float64(count)),
        sources=draw(arrays.arrays(np.uint8, count)),
        flags=draw(arrays.arrays(np.uint16, count)),
        gradient_norms=draw(st.none() | float32((count, parameters))),
        total_norms=draw(st.none() | float64(count)),
        digests=draw(st.none() | arrays.arrays(np.uint64, count)),
        nonfinite=draw(st.none() | nonfinites(count)),
        scalars=scalars,
        tensors=tensors,
        data_ids=draw(st.dictionaries(st.integers(0, count - 1), st.text(max_size=8), max_size=3)),
        rounded=draw(st.booleans()),
    )


def exactly(value: Any) -> Any:
    """A value that compares equal only when every bit does."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: exactly(each) for key, each in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: exactly(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def record(batch: StepBatch, row: int) -> dict[str, Any]:
    """One record of a batch, looked up the slow and obvious way."""
    found: dict[str, Any] = {"sequence": batch.first_sequence + row, "ids": batch.data_ids.get(row)}
    for name in ("steps", "times", "sources", "flags", "gradient_norms", "total_norms", "digests"):
        column = getattr(batch, name)
        found[name] = None if column is None else column[row].tobytes()
    for quantity, scalar in batch.scalars.items():
        for index, at in enumerate(scalar.rows.tolist()):
            if at == row:
                found[quantity.name] = scalar.values[index].tobytes()
    for quantity, tensor in batch.tensors.items():
        for index, at in enumerate(tensor.rows.tolist()):
            if at == row:
                found[quantity.name] = (tensor.parameters.tolist(), tensor.values[index].tobytes())
    if batch.nonfinite is not None:
        names = batch.nonfinite.__dataclass_fields__
        entries = zip(*(getattr(batch.nonfinite, name).tolist() for name in names), strict=True)
        found["nonfinite"] = [entry[1:] for entry in entries if entry[0] == row]
    found.setdefault("nonfinite", [])
    return found


@given(batches())
def test_what_is_encoded_is_decoded_to_the_bit(batch: StepBatch) -> None:
    assert exactly(decode(encode(batch))) == exactly(batch)


@given(batches(), st.data())
def test_a_slice_holds_exactly_its_records(batch: StepBatch, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, batch.count - 1))
    stop = data.draw(st.integers(start + 1, batch.count))

    part = slice_batch(batch, start, stop)

    assert part.count == stop - start
    assert [record(part, row) for row in range(part.count)] == [record(batch, row) for row in range(start, stop)]
    sparse: list[ScalarColumn | TensorColumn] = [*part.scalars.values(), *part.tensors.values()]
    assert all(len(column.rows) for column in sparse), "a column without a record is left out"
    assert part.nonfinite is None or len(part.nonfinite.rows)
    assert exactly(decode(encode(part))) == exactly(part)


@given(batches(), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_segment_is_an_error_and_never_a_crash(batch: StepBatch, position: int, value: int) -> None:
    data = bytearray(encode(batch))
    data[position % len(data)] = value
    del data[len(data) - position % 9 :]
    with contextlib.suppress(ValueError):
        decode(bytes(data))
