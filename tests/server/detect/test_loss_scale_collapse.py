"""A loss scaler that finds its level is harmless; one that runs out of room is not."""

from __future__ import annotations

import numpy as np

from seismograd_server.model import ClosedBlock, RecordFlag, Severity, Signature
from tests.support.closed import findings_of, noisy, run_of, told

STEPS = 600


def scaled_run(overflow_above: float | list[float], start: float = 65536.0, growth_every: int = 2000) -> ClosedBlock:
    """A real scaler (halve and skip on overflow, double after so many good steps) over a limit that may move."""
    limits = np.broadcast_to(np.asarray(overflow_above, dtype=np.float64), STEPS)
    scale, good, scales, skipped = start, 0, np.empty(STEPS), np.zeros(STEPS, dtype=np.bool_)
    for step in range(STEPS):
        scales[step] = scale
        if scale > limits[step]:
            skipped[step], scale, good = True, scale / 2.0, 0
        else:
            good += 1
            if good % growth_every == 0:
                scale *= 2.0
    norms, counts = noisy(STEPS), np.zeros((STEPS, 3), dtype=np.int64)
    norms[skipped], counts[skipped, 1] = 0.0, 7
    flags = np.where(skipped, RecordFlag.SKIPPED_BY_SCALER, 0).astype(np.uint16)
    return run_of(norms, flags=flags, nonfinite=counts, loss_scale=scales)


def collapse(block: ClosedBlock) -> list[tuple[int, Severity]]:
    found = findings_of(block)
    assert {each.signature for each in found} <= {Signature.LOSS_SCALE_COLLAPSE}
    return told(found, Signature.LOSS_SCALE_COLLAPSE)


def test_the_warm_up_of_a_scaler_is_silent() -> None:
    assert collapse(scaled_run(100.0)) == []
    assert collapse(scaled_run(40.0, start=2.0**24)) == []


def test_an_eager_scaler_that_tries_every_ten_steps_is_silent() -> None:
    assert collapse(scaled_run(3000.0, growth_every=10)) == []


def test_a_scale_that_falls_a_hundredfold_warns_and_is_critical_at_the_floor() -> None:
    limits = [3000.0] * 300 + [0.001] * 300
    found = collapse(scaled_run(limits))
    assert [severity for _, severity in found][:2] == [Severity.WARNING, Severity.CRITICAL]
    assert found[0][0] < found[1][0] < 316


def test_it_is_over_when_no_step_is_skipped_for_long() -> None:
    limits = [3000.0] * 300 + [10.0] * 300
    assert [severity for _, severity in collapse(scaled_run(limits))] == [Severity.WARNING, Severity.NONE]


def test_too_many_skipped_steps_warn_at_any_scale() -> None:
    assert collapse(scaled_run([3000.0] * 200 + [700.0] * 400, growth_every=3))[0][1] is Severity.WARNING
