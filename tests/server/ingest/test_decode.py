"""Frames to arrivals: exact values, joined batches, and a name for everything that is wrong."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_proto.v1 import telemetry
from seismograd_server.errors import UnknownRankError
from seismograd_server.ingest.decode import Decoder, FrameError
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.model import TOTAL_ONLY, Catalog, Quantity, RecordKind, StepBatch
from seismograd_server.pipeline import Arrival
from tests.support.synthetic import parameters

HANDLE = 7
LIMITS = IngestLimits()


def catalog_of(handle: int, optimizer: int, version: int) -> Catalog | None:
    if handle != HANDLE:
        raise UnknownRankError(f"rank handle {handle} is not known here: open the run again")
    return Catalog(0, 0, parameters()) if (optimizer, version) == (0, 0) else None


def wire(first: int = 0, count: int = 2, **changes: Any) -> telemetry.StepBatch:
    values: dict[str, Any] = {
        "rank_handle": HANDLE,
        "kind": telemetry.RECORD_KIND_STEP,
        "first_sequence": first,
        "count": count,
        "first_step": first,
        "times_unix_seconds": np.arange(count, dtype="<f8").tobytes(),
        "sources": bytes([telemetry.NORM_SOURCE_CLIP] * count),
        "flags": bytes(2 * count),
        "gradient_norms": (np.arange(3 * count, dtype="<f4") + first).tobytes(),
    }
    return telemetry.StepBatch(**(values | changes))


def frame(*batches: telemetry.StepBatch, **others: Any) -> bytes:
    return telemetry.StreamStepsRequest(batches=batches, **others).SerializeToString()


def decode(data: bytes, handles: tuple[int, ...] = ()) -> Arrival:
    return Decoder(catalog_of, LIMITS).decode([data], handles)


def only(arrival: Arrival) -> StepBatch:
    assert arrival.rejections == ()
    (batch,) = arrival.batches
    return batch


def test_a_batch_arrives_with_every_column() -> None:
    all_rows = np.array([1.5, math.nan], "<f8").tobytes()
    batch = only(
        decode(
            frame(
                wire(
                    4,
                    flags=np.array([0, 4], "<u2").tobytes(),
                    total_norms=np.array([1.0, math.inf], "<f8").tobytes(),
                    digests=np.array([1, 2**64 - 1], "<u8").tobytes(),
                    scalars=[
                        telemetry.ScalarColumn(quantity=telemetry.QUANTITY_LOSS, values=all_rows),
                        telemetry.ScalarColumn(
                            quantity=telemetry.QUANTITY_LOCAL_NORM,
                            rows=np.array([1], "<u4").tobytes(),
                            values=np.array([-0.0], "<f8").tobytes(),
                        ),
                    ],
                    tensors=[
                        telemetry.TensorColumn(
                            quantity=telemetry.QUANTITY_WEIGHT_NORM,
                            rows=np.array([0], "<u4").tobytes(),
                            parameters=np.array([0, 2], "<u4").tobytes(),
                            values=np.array([5.0, 6.0], "<f4").tobytes(),
                        )
                    ],
                    nonfinite=telemetry.NonfiniteColumns(
                        rows=np.array([1, 1], "<u4").tobytes(),
                        parameters=np.array([2, TOTAL_ONLY], "<u4").tobytes(),
                        nan_counts=np.array([3, 4], "<u8").tobytes(),
                        positive_inf_counts=np.array([0, 1], "<u8").tobytes(),
                        negative_inf_counts=np.array([0, 0], "<u8").tobytes(),
                    ),
                    data_ids=[telemetry.DataIds(row=1, ids="shard-3")],
                )
            )
        )
    )
    assert (batch.rank_handle, batch.optimizer, batch.kind, batch.first_sequence) == (HANDLE, 0, RecordKind.STEP, 4)
    assert batch.steps.tolist() == [4, 5]
    assert batch.gradient_norms is not None
    assert batch.gradient_norms.tolist() == [[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert batch.total_norms is not None
    assert batch.total_norms.tolist() == [1.0, math.inf]
    assert batch.digests is not None
    assert batch.digests.tolist() == [1, 2**64 - 1]
    assert batch.flags.tolist() == [0, 4]
    loss = batch.scalars[Quantity.LOSS]
    assert loss.rows.tolist() == [0, 1]
    assert np.array_equal(loss.values, [1.5, math.nan], equal_nan=True)
    assert math.copysign(1.0, batch.scalars[Quantity.LOCAL_NORM].values[0]) == -1.0
    weights = batch.tensors[Quantity.WEIGHT_NORM]
    assert (weights.rows.tolist(), weights.parameters.tolist(), weights.values.tolist()) == ([0], [0, 2], [[5.0, 6.0]])
    assert batch.nonfinite is not None
    assert batch.nonfinite.parameters.tolist() == [2, TOTAL_ONLY]
    assert batch.data_ids == {1: "shard-3"}


def test_an_empty_column_means_not_captured() -> None:
    batch = only(decode(frame(wire(gradient_norms=b"", total_norms=np.ones(2, "<f8").tobytes()))))
    assert batch.gradient_norms is None
    assert batch.digests is None
    assert batch.nonfinite is None


def test_frames_of_one_tick_become_one_batch() -> None:
    arrival = decode(b"".join(frame(wire(first, 2)) for first in range(0, 20, 2)))
    batch = only(arrival)
    assert batch.steps.tolist() == list(range(20))
    assert batch.gradient_norms is not None
    assert batch.gradient_norms[:, 0].tolist() == [
        float(first + 3 * row) for first in range(0, 20, 2) for row in range(2)
    ]


def test_batches_are_not_joined_across_holes_branches_kinds_or_missing_columns() -> None:
    arrival = decode(
        frame(
            wire(0),
            wire(4),
            wire(6, branch=1),
            wire(8, branch=1, kind=telemetry.RECORD_KIND_DETAIL),
            wire(10, branch=1, kind=telemetry.RECORD_KIND_DETAIL, gradient_norms=b""),
        )
    )
    assert [batch.first_sequence for batch in arrival.batches] == [0, 4, 6, 8, 10]


@pytest.mark.parametrize("later", [2, 10], ids=["goes on", "jumps"])
def test_batches_that_continue_one_another_are_joined_whether_their_steps_go_on_or_jump(later: int) -> None:
    batch = only(decode(frame(wire(0), wire(2, first_step=later), wire(4, first_step=later + 2))))
    assert batch.steps.tolist() == [0, 1, *range(later, later + 4)]
    assert batch.first_sequence == 0


@pytest.mark.parametrize("told", [0, 2], ids=["first", "second"])
def test_batches_are_joined_also_when_one_tells_its_steps_and_the_other_counts_on(told: int) -> None:
    steps: dict[str, Any] = {"steps": np.array([told, told + 1], "<i8").tobytes(), "first_step": 0}
    batch = only(decode(frame(*(wire(first, **(steps if first == told else {})) for first in (0, 2)))))
    assert batch.steps.tolist() == [0, 1, 2, 3]


def test_a_step_that_goes_back_inside_a_branch_costs_no_neighbour() -> None:
    arrival = decode(frame(wire(0), wire(2, first_step=1), wire(4, steps=np.array([9, 8], "<i8").tobytes()), wire(6)))
    assert [batch.steps.tolist() for batch in arrival.batches] == [[0, 1], [1, 2], [6, 7]]
    (rejection,) = arrival.rejections
    assert (rejection.first_sequence, rejection.count, rejection.field) == (4, 2, "steps")


BAD = [
    ({"count": 0}, "count"),
    ({"count": 100_000}, "count"),
    ({"times_unix_seconds": b""}, "times_unix_seconds"),
    ({"times_unix_seconds": np.array([1.0, math.nan], "<f8").tobytes()}, "times_unix_seconds"),
    ({"sources": b"\x01"}, "sources"),
    ({"sources": b"\x01\x00"}, "sources"),
    ({"sources": b"\x01\x63"}, "sources"),
    ({"flags": b"\x00"}, "flags"),
    ({"steps": b"\x00"}, "steps"),
    ({"steps": np.array([0, 2**62], "<i8").tobytes()}, "steps"),
    ({"steps": np.array([-(2**63), 0], "<i8").tobytes()}, "steps"),
    ({"first_step": 2**63 - 1}, "first_step"),
    ({"first_sequence": 2**63}, "first_sequence"),
    ({"gradient_norms": b"\x00" * 23}, "gradient_norms"),
    ({"total_norms": b"\x00" * 8}, "total_norms"),
    ({"digests": b"\x00"}, "digests"),
    ({"catalog_version": 3}, "catalog_version"),
    ({"branch": 2**31}, "branch"),
    ({"scalars": [telemetry.ScalarColumn(values=b"\x00" * 16)]}, "scalars.quantity"),
    ({"scalars": [telemetry.ScalarColumn(quantity=telemetry.QUANTITY_LOSS, values=b"\x00")]}, "scalars.values"),
    (
        {"scalars": [telemetry.ScalarColumn(quantity=telemetry.QUANTITY_LOSS, values=b"\x00" * 16)] * 2},
        "scalars.quantity",
    ),
    (
        {
            "scalars": [
                telemetry.ScalarColumn(
                    quantity=telemetry.QUANTITY_LOSS, rows=np.array([1, 0], "<u4").tobytes(), values=b"\x00" * 16
                )
            ]
        },
        "scalars.rows",
    ),
    (
        {
            "tensors": [
                telemetry.TensorColumn(
                    quantity=telemetry.QUANTITY_MAX_ABS, parameters=np.array([3], "<u4").tobytes(), values=b"\x00" * 8
                )
            ]
        },
        "tensors.parameters",
    ),
    ({"nonfinite": telemetry.NonfiniteColumns(rows=b"\x00" * 4)}, "nonfinite.parameters"),
    (
        {
            "nonfinite": telemetry.NonfiniteColumns(
                rows=np.array([2], "<u4").tobytes(),
                parameters=b"\x00" * 4,
                nan_counts=b"\x00" * 8,
                positive_inf_counts=b"\x00" * 8,
                negative_inf_counts=b"\x00" * 8,
            )
        },
        "nonfinite.rows",
    ),
    ({"data_ids": [telemetry.DataIds(row=2, ids="x")]}, "data_ids.row"),
    ({"data_ids": [telemetry.DataIds(row=0, ids="x" * 5000)]}, "data_ids.ids"),
]


@pytest.mark.parametrize(("change", "field"), BAD, ids=[f"{index}-{field}" for index, (_, field) in enumerate(BAD)])
def test_a_bad_batch_is_refused_by_the_name_of_its_field_and_its_neighbours_are_kept(
    change: dict[str, Any], field: str
) -> None:
    arrival = decode(frame(wire(0), wire(2, **change), wire(4)))
    assert [batch.first_sequence for batch in arrival.batches] == [0, 4]
    (rejection,) = arrival.rejections
    assert rejection.field == field
    assert rejection.message
    assert "\n" not in rejection.message


def test_wrong_lengths_are_told_with_the_length_and_the_one_expected() -> None:
    (rejection,) = decode(frame(wire(gradient_norms=b"\x00" * 20))).rejections
    assert "20 bytes" in rejection.message
    assert "24" in rejection.message


def test_a_quantity_that_only_a_newer_client_knows_is_left_out() -> None:
    column = telemetry.ScalarColumn(values=np.ones(2, "<f8").tobytes())
    data = column.SerializeToString() + bytes([0x08, 99])  # quantity = 99
    batch = only(decode(frame(wire(scalars=[telemetry.ScalarColumn.FromString(data)]))))
    assert batch.scalars == {}


def test_a_catalog_serves_the_batches_of_its_own_frame() -> None:
    catalog = telemetry.Catalog(version=1, parameters=[telemetry.Parameter(name="a", numel=1, local_numel=1)])
    arrival = decode(frame(wire(catalog_version=1, gradient_norms=np.ones(2, "<f4").tobytes()), catalogs=[catalog]))
    assert only(arrival).gradient_norms is not None
    ((handle, decoded),) = arrival.catalogs
    assert (handle, decoded.version, decoded.parameters[0].name) == (HANDLE, 1, "a")


def test_a_catalog_that_comes_alone_belongs_to_the_ranks_of_the_stream() -> None:
    catalog = telemetry.Catalog(version=1)
    assert decode(frame(catalogs=[catalog]), (HANDLE,)).catalogs == ((HANDLE, Catalog(0, 1, ())),)
    assert decode(frame(catalogs=[catalog])).catalogs == ()


def test_a_bad_catalog_is_told_with_every_batch_that_needs_it() -> None:
    catalog = telemetry.Catalog(version=1, parameters=[telemetry.Parameter(name="a\x00b")])
    arrival = decode(frame(wire(0), wire(2, catalog_version=1), catalogs=[catalog]))
    assert [batch.first_sequence for batch in arrival.batches] == [0]
    assert [each.field for each in arrival.rejections] == ["catalogs.parameters.name"]


def test_a_catalog_of_a_million_layers_is_refused_with_what_to_do_and_its_neighbours_are_kept() -> None:
    catalog = telemetry.Catalog(version=1)
    catalog.MergeFromString(telemetry.Catalog(parameters=[telemetry.Parameter(name="a")]).SerializeToString() * 10**6)
    arrival = decode(frame(wire(0), wire(2, catalog_version=1), wire(4), catalogs=[catalog]))
    assert [batch.first_sequence for batch in arrival.batches] == [0, 4]
    (rejection,) = arrival.rejections
    assert (rejection.first_sequence, rejection.count, rejection.field) == (2, 2, "catalogs.parameters")
    assert "are 1000000: at most 65536; group some of them" in rejection.message


def test_the_same_version_with_other_parameters_is_refused() -> None:
    arrival = decode(frame(wire(), catalogs=[telemetry.Catalog(parameters=[telemetry.Parameter(name="other")])]))
    assert [each.field for each in arrival.rejections] == ["catalogs.version"]


def test_drops_checkpoints_and_health_come_along() -> None:
    arrival = decode(
        frame(
            drops=[
                telemetry.DroppedRange(
                    rank_handle=HANDLE, kind=telemetry.RECORD_KIND_STEP, first_sequence=3, count=2, reason="bored"
                )
            ],
            checkpoints=[telemetry.CheckpointEvent(rank_handle=HANDLE, step=9, path="x" * 9000)],
            health=[
                telemetry.ClientHealth(
                    rank_handle=HANDLE, dropped_records={"queue_full": 2, "made_up": 5}, hook_seconds=math.nan
                )
            ],
        )
    )
    (drop,) = arrival.drops
    assert (drop.first_sequence, drop.count, drop.reason) == (3, 2, "other")
    assert len(arrival.checkpoints[0].path) <= LIMITS.max_reason_bytes
    (health,) = arrival.health
    assert (dict(health.dropped_records), health.hook_seconds) == ({"queue_full": 2}, 0.0)


def test_an_unknown_handle_ends_the_stream() -> None:
    with pytest.raises(UnknownRankError):
        decode(frame(wire(rank_handle=99)))
    with pytest.raises(UnknownRankError):
        decode(frame(wire(rank_handle=0)))


@pytest.mark.parametrize("data", [b"\xff", frame(wire(kind=0)), frame(wire(optimizer=64))])
def test_bytes_that_have_no_place_end_the_stream(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(noise: bytes) -> None:
    try:
        arrival = decode(frame(wire()) + noise)
    except (FrameError, UnknownRankError):
        return
    assert arrival.batches


@given(st.data())
def test_any_damage_to_a_frame_is_refused_or_harmless(data: st.DataObject) -> None:
    whole = bytearray(frame(wire(0, 4), wire(4, 4)))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrival = decode(bytes(whole))
    except (FrameError, UnknownRankError):
        return
    for batch in arrival.batches:
        assert batch.count == len(batch.times) == len(batch.sources) == len(batch.flags)
        assert (np.diff(batch.steps) > 0).all()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.booleans())
def test_however_records_are_cut_into_frames_they_arrive_the_same(counts: list[int], sparse: bool) -> None:
    total = sum(counts)
    losses = np.linspace(3.0, 1.0, total)
    edges = [0, *itertools.accumulate(counts)]
    frames = []
    for first, stop in itertools.pairwise(edges):
        rows = np.arange(0, stop - first, 2 if sparse else 1, dtype="<u4")
        column = telemetry.ScalarColumn(
            quantity=telemetry.QUANTITY_LOSS,
            rows=rows.tobytes() if sparse else b"",
            values=losses[first:stop][rows].astype("<f8").tobytes(),
        )
        norms = np.arange(3 * first, 3 * stop, dtype="<f4").tobytes()
        frames.append(frame(wire(first, stop - first, gradient_norms=norms, scalars=[column])))
    batch = only(decode(b"".join(frames)))
    assert batch.steps.tolist() == list(range(total))
    assert batch.gradient_norms is not None
    assert batch.gradient_norms.ravel().tolist() == list(range(3 * total))
    column_of = batch.scalars[Quantity.LOSS]
    assert column_of.values.tolist() == losses[column_of.rows].tolist()
