"""An explosion that clipping hides, and healthy runs that are clipped at every step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from seismograd_server.model import ClosedBlock, Severity, Signature
from tests.support.closed import findings_of, noisy, run_of, told

STEPS, ONSET = 800, 300
AFTER = np.maximum(0, np.arange(STEPS) - ONSET)


def clipped_run(
    octaves: npt.NDArray[np.float64], loss: npt.NDArray[np.float64] | None, threshold: float = 0.05
) -> ClosedBlock:
    norms = noisy(STEPS, octaves=0.2) * 2.0**octaves
    known = np.zeros(STEPS, dtype=np.bool_) if loss is None else np.ones(STEPS, dtype=np.bool_)
    return run_of(
        norms,
        loss=np.full(STEPS, np.nan) if loss is None else loss,
        loss_known=known,
        clip_coefficient=np.minimum(1.0, threshold / norms),
        clip_threshold=np.full(STEPS, threshold),
    )


def saturation(block: ClosedBlock) -> list[tuple[int, Severity]]:
    return told(findings_of(block), Signature.CLIP_SATURATION)


def test_a_rising_norm_behind_saturated_clipping_is_a_warning() -> None:
    rising = AFTER / 80.0
    for loss in (np.full(STEPS, 2.0), None):
        found = saturation(clipped_run(np.minimum(rising, 4.0), loss))
        assert found[0][1] is Severity.WARNING
        assert ONSET + 60 < found[0][0] < ONSET + 200


def test_it_is_over_when_the_norm_stops_rising() -> None:
    found = saturation(clipped_run(np.minimum(AFTER / 80.0, 2.0) - np.maximum(0, AFTER - 240) / 100.0, None))
    assert [severity for _, severity in found] == [Severity.WARNING, Severity.NONE]


def test_clipping_at_every_step_of_a_steady_run_is_nobody_s_business() -> None:
    assert saturation(clipped_run(np.zeros(STEPS), np.full(STEPS, 2.0))) == []


def test_a_norm_that_rises_while_the_model_learns_is_training() -> None:
    assert saturation(clipped_run(AFTER / 80.0, np.geomspace(3.0, 0.3, STEPS))) == []


def test_a_rise_that_clipping_does_not_touch_is_not_masked() -> None:
    assert saturation(clipped_run(np.minimum(AFTER / 80.0, 4.0), np.full(STEPS, 2.0), threshold=100.0)) == []
