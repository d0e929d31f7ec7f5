"""Which records are in a hurry."""

from __future__ import annotations

import numpy as np
import pytest

from seismograd.outbox.guard import AnomalyGuard, total_norm
from seismograd.record import Nonfinite, Quantity, StepRecord
from tests.support.records import make_record


def judge(*records: StepRecord) -> list[bool]:
    guard = AnomalyGuard()
    return [guard.is_anomalous(record) for record in records]


def test_a_tenfold_jump_of_the_total_norm_is_anomalous_and_a_fivefold_one_is_not() -> None:
    assert judge(*(make_record(n, norm) for n, norm in enumerate([1.0, 1.1, 0.9, 5.0, 40.0]))) == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_a_new_level_stops_being_an_anomaly() -> None:
    verdicts = judge(make_record(0, 1.0), *(make_record(n, 100.0) for n in range(1, 60)))
    assert verdicts[1]
    assert not verdicts[-1]


def test_the_first_record_has_nothing_to_be_compared_with() -> None:
    assert judge(make_record(0, 1e30)) == [False]


def test_falling_norms_and_zeros_are_ordinary() -> None:
    assert judge(make_record(0, 1.0), make_record(1, 1e-6), make_record(2, 0.0)) == [False, False, False]


@pytest.mark.parametrize("norm", [float("inf"), float("nan")])
def test_a_total_that_is_not_finite_is_anomalous(norm: float) -> None:
    assert judge(make_record(0, 1.0), make_record(1, gradient_norms=None, total_norm=norm)) == [False, True]


def test_non_finite_elements_or_a_non_finite_loss_are_anomalous() -> None:
    counts = np.array([3], np.uint64)
    nonfinite = Nonfinite(np.array([1], np.uint32), counts, counts, counts)
    none = Nonfinite(np.array([], np.uint32), *([np.array([], np.uint64)] * 3))
    assert judge(
        make_record(0, nonfinite=nonfinite),
        make_record(1, nonfinite=none),
        make_record(2, scalars={Quantity.LOSS: float("nan")}),
        make_record(3, scalars={Quantity.LEARNING_RATE: float("nan")}),
    ) == [True, False, True, False]


def test_the_total_of_norms_whose_squares_leave_float32_is_true() -> None:
    assert total_norm(make_record(0, gradient_norms=np.full(4, 1e30, np.float32))) == pytest.approx(2e30)
    assert total_norm(make_record(0, gradient_norms=None)) is None
