"""A step on the host takes a short way; it gives what the long way gives, to the last bit."""

from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from seismograd.capture.draft import Draft
from seismograd.capture.parts import Part
from seismograd.capture.pending import PendingStep
from seismograd.capture.suspicion import Suspicion
from seismograd.outbox.columns import travelling
from seismograd.outbox.packing import Heading, pack
from seismograd.record import NormSource, Quantity, RecordFlag

PARAMETERS = [torch.zeros(2) for _ in range(5)]
NORMS = st.floats(1e-30, 1e30, allow_subnormal=False)


def part_of(norms: list[float], dtype: torch.dtype) -> Part:
    return Part(None, torch.tensor(norms, dtype=dtype), PARAMETERS[: len(norms)], None)


def pending_of(draft: Draft, columns: int) -> PendingStep:
    heading = Heading(1, 0, 17, 4, 1.7e9, 2, columns)
    return PendingStep(heading, draft, [], Suspicion(), on_host=True)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    norms = draw(st.lists(NORMS, min_size=1, max_size=5))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    scalars = {Quantity.LEARNING_RATE: 0.1, Quantity.STEP_SECONDS: draw(st.floats(0.0, 1e3))}
    if draw(st.booleans()):
        scalars[Quantity.CLIP_THRESHOLD] = draw(st.floats(1e-6, 1e6))
    if draw(st.booleans()):
        scalars[Quantity.REPORTED_NORM] = draw(st.one_of(st.floats(0.0, 1e9), st.just(float("nan"))))
    source = draw(st.sampled_from([NormSource.CLIP, NormSource.OPTIMIZER_STEP, NormSource.SCALER_SKIP]))
    flags = draw(st.sampled_from([RecordFlag(0), RecordFlag.SKIPPED_BY_USER, RecordFlag.INEXACT]))
    data = draw(st.sampled_from([None, "batch 7", "x" * 5000]))
    return Draft([part_of(norms, dtype)], source, flags, 1.7e9, scalars=scalars, data=data)


@given(drafts())
def test_the_short_way_and_the_long_way_give_the_same_record(draft: Draft) -> None:
    columns = len(draft.parts[0].norms)
    long_way = pending_of(copy.deepcopy(draft), columns).resolve()

    short_way = pending_of(draft, columns).packed()

    assert short_way is not None
    assert short_way.data == pack(long_way)
    assert (short_way.optimizer, short_way.sequence, short_way.step) == (1, 17, 4)


def test_what_needs_arithmetic_takes_the_long_way() -> None:
    scaled = Draft([part_of([4.0, 6.0], torch.float32)], NormSource.OPTIMIZER_STEP, RecordFlag(0), 0.0)
    scaled.gradient_scale = 2.0

    assert pending_of(scaled, 2).packed() is None
    record = pending_of(scaled, 2).resolve()

    assert record.gradient_norms is not None
    np.testing.assert_array_equal(record.gradient_norms, [2.0, 3.0])


def test_a_replica_ships_a_total_and_a_digest_and_no_rows() -> None:
    replica = Draft([part_of([3.0, 4.0], torch.float32)], NormSource.CLIP, RecordFlag(0), 0.0)
    replica.ships_rows, replica.replica = False, True

    kept = pending_of(replica, 2).resolve()
    record = travelling(kept)

    assert kept.gradient_norms is not None, "the flight recorder holds it"
    assert record.gradient_norms is None
    assert record.total_norm == 5.0
    assert record.digest is not None
