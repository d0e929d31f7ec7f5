"""Columns: what goes in comes out, and batches are cut where they must be."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seismograd.outbox.columns import normalise
from seismograd.outbox.decode import decode_batch, decode_catalog, decode_identity
from seismograd.outbox.encode import MAX_BATCH_RECORDS, encode_batch, encode_catalog, encode_open, group
from seismograd.record import (
    Catalog,
    Composition,
    Nonfinite,
    NormSource,
    OptimizerInfo,
    Parameter,
    Quantity,
    RecordFlag,
    RunIdentity,
    StepRecord,
)
from seismograd_proto.v1 import telemetry
from tests.support.records import make_catalog, make_record

ANY_FLOAT = st.floats(width=64)
TENSOR_QUANTITIES = [Quantity.WEIGHT_NORM, Quantity.UPDATE_NORM, Quantity.MAX_ABS]


def columns(length: int) -> st.SearchStrategy[Any]:
    return arrays.arrays(np.float32, length, elements=st.floats(width=32))


def counts(length: int) -> st.SearchStrategy[Any]:
    return arrays.arrays(np.uint64, length, elements=st.integers(0, 2**64 - 1))


@st.composite
def nonfinites(draw: st.DrawFn) -> Nonfinite:
    length = draw(st.integers(1, 3))
    parameters = draw(arrays.arrays(np.uint32, length, elements=st.integers(0, 2**32 - 1)))
    return Nonfinite(parameters, draw(counts(length)), draw(counts(length)), draw(counts(length)))


@st.composite
def streams(draw: st.DrawFn) -> list[StepRecord]:
    """Records of one stream as capture may give them: holes, rewinds, changing catalogs, columns that come and go."""
    records: list[StepRecord] = []
    sequence, step, branch, version = 0, 0, 0, 0
    for _ in range(draw(st.integers(1, 12))):
        sequence += draw(st.sampled_from([1, 1, 1, 1, 3]))
        step += draw(st.sampled_from([1, 1, 1, 5, -4]))
        branch += draw(st.sampled_from([0, 0, 0, 1]))
        version += draw(st.sampled_from([0, 0, 0, 1]))
        width = version + 1
        records.append(
            make_record(
                sequence,
                step=step,
                branch=branch,
                catalog_version=version,
                time_unix_seconds=draw(st.floats(0, 4e9)),
                source=draw(st.sampled_from(NormSource)),
                flags=RecordFlag(draw(st.integers(0, 31))),
                gradient_norms=draw(st.none() | columns(width)),
                total_norm=draw(st.none() | ANY_FLOAT),
                digest=draw(st.none() | st.integers(0, 2**64 - 1)),
                nonfinite=draw(st.none() | nonfinites()),
                scalars=draw(st.dictionaries(st.sampled_from(Quantity), ANY_FLOAT, max_size=3)),
                tensors=draw(st.dictionaries(st.sampled_from(TENSOR_QUANTITIES), columns(width), max_size=2)),
                data_ids=draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)),
            )
        )
    return records


def canonical(record: StepRecord) -> tuple[Any, ...]:
    """Every field to the bit, NaN included."""

    def raw(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.dtype.str, value.tobytes()
        if isinstance(value, float):
            return np.float64(value).tobytes()
        if isinstance(value, dict):
            return {key: raw(each) for key, each in value.items()}
        if isinstance(value, Nonfinite):
            return tuple(raw(getattr(value, name)) for name in Nonfinite.__slots__)
        return value

    return tuple(raw(getattr(record, name)) for name in StepRecord.__slots__)


@settings(deadline=None, max_examples=60)
@given(streams())
def test_every_record_survives_the_wire_to_the_bit(records: list[StepRecord]) -> None:
    received = [
        record
        for batch in group(records)
        for record in decode_batch(telemetry.StepBatch.FromString(encode_batch(9, batch).SerializeToString()))
    ]
    assert list(map(canonical, received)) == list(map(canonical, records))


@settings(deadline=None, max_examples=60)
@given(streams())
def test_a_batch_is_of_one_branch_and_catalog_with_consecutive_sequences_and_rising_steps(
    records: list[StepRecord],
) -> None:
    batches = list(group(records))
    assert [record for batch in batches for record in batch] == records
    for batch in batches:
        assert len({(record.branch, record.catalog_version, record.optimizer, record.kind) for record in batch}) == 1
        for before, after in pairwise(batch):
            assert after.sequence == before.sequence + 1
            assert after.step > before.step


def test_records_that_fit_together_are_not_cut_apart() -> None:
    assert [len(batch) for batch in group([make_record(n) for n in range(50)])] == [50]
    assert [len(batch) for batch in group([make_record(n) for n in range(MAX_BATCH_RECORDS + 1)])] == [2000, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"branch": 1},
        {"catalog_version": 1},
        {"step": 0},
        {"gradient_norms": None},
        {"gradient_norms": np.zeros(9, np.float32)},
        {"total_norm": 1.0},
        {"digest": 1},
    ],
)
def test_each_difference_that_a_batch_cannot_hold_ends_it(change: dict[str, Any]) -> None:
    records = [make_record(0), make_record(1, **change)]
    assert [len(batch) for batch in group(records)] == [1, 1]


def test_a_hole_in_the_sequence_ends_a_batch() -> None:
    assert [len(batch) for batch in group([make_record(0), make_record(2)])] == [1, 1]


def test_steps_without_holes_travel_as_their_first() -> None:
    dense = encode_batch(1, [make_record(n, step=n + 5) for n in range(3)])
    assert (dense.first_step, dense.steps) == (5, b"")
    sparse = encode_batch(1, [make_record(0, step=0), make_record(1, step=4)])
    assert np.frombuffer(sparse.steps, "<i8").tolist() == [0, 4]


def test_a_scalar_that_every_record_has_needs_no_rows() -> None:
    batch = encode_batch(1, [make_record(0), make_record(1, scalars={Quantity.LOSS: 1.0, Quantity.LOSS_SCALE: 8.0})])
    rows = {each.quantity: each.rows for each in batch.scalars}
    assert rows == {int(Quantity.LOSS): b"", int(Quantity.LOSS_SCALE): np.array([1], "<u4").tobytes()}


@pytest.mark.parametrize(
    "norms",
    [np.arange(8, dtype=np.float64), np.arange(16, dtype=np.float32)[::2], np.arange(8, dtype=">f4")],
)
def test_columns_of_any_layout_become_what_the_wire_needs(norms: Any) -> None:
    record = normalise(make_record(0, gradient_norms=norms))
    received = decode_batch(encode_batch(1, [record]))[0].gradient_norms
    assert received is not None
    assert received.tolist() == list(norms)


def test_a_column_that_is_no_column_is_refused() -> None:
    with pytest.raises(ValueError, match="2 dimensions"):
        normalise(make_record(0, gradient_norms=np.zeros((2, 2), np.float32)))
    one, two = np.zeros(1, np.uint64), np.zeros(2, np.uint64)
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        normalise(make_record(0, nonfinite=Nonfinite(np.zeros(1, np.uint32), one, two, one)))


def test_a_catalog_survives_the_wire() -> None:
    parameter = Parameter(
        "lstm.weight_hh_l0", (400, 100), 40_000, 20_000, "bfloat16", "LSTM", -1, 1, 2, 0, 4, Composition.PARTIAL, "tied"
    )
    catalog = Catalog(2, 5, (parameter, *make_catalog().parameters))
    assert decode_catalog(encode_catalog(catalog)) == catalog


def test_an_identity_survives_the_wire() -> None:
    identity = RunIdentity(
        project="mt",
        run="lstm-7",
        launch_id="launch",
        rank=3,
        world_size=4,
        session_id="s",
        client_version="1",
        python_version="3.11",
        framework="torch 2.13.0",
        strategy="ddp",
        hostname="node1",
        process_id=77,
        local_rank=1,
        device_type="cuda",
        device_name="H200",
        device_uuid="GPU-1",
        driver_version="550",
        host_facts={"cpu": "EPYC", "nccl": "2.27.3"},
        config_json='{"lr": 0.1}',
        tags={"team": "nlp"},
        optimizers=(OptimizerInfo(0, "torch.optim.adamw.AdamW", "{}"),),
    )
    assert decode_identity(encode_open(identity, [], 1.5)) == identity
