"""What looks alarming and is not: no alert at all, over norms, losses, samples and every signature at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import ClosedBlock, RecordFlag, Severity
from tests.support.closed import findings_of, noisy, run_of, with_ratio

STEPS, AT = 800, 400
STEP = np.arange(STEPS)
Column = npt.NDArray[np.float64]


def usual_loss(seed: int = 1) -> Column:
    """Learnt from 4 to 0.5, with noise of ten percent."""
    falling = 0.5 + 3.5 * np.exp(-STEP / 80.0)
    return np.asarray(falling * 2.0 ** np.random.default_rng(seed).normal(0.0, 0.15, STEPS))


def sampled(block: ClosedBlock, ratios: Column, every: int) -> ClosedBlock:
    return with_ratio(block, np.where(STEP % every == 0, ratios, np.nan))


def loss_scaler_warm_up() -> tuple[ClosedBlock, Column]:
    """Fourteen skipped steps at the beginning, then one now and then."""
    skipped = (STEP < 14) | (STEP % 200 == 150)
    norms, counts = noisy(STEPS), np.zeros((STEPS, 3), dtype=np.int64)
    norms[skipped], counts[skipped, 1] = 0.0, 9
    scale = 2.0 ** np.where(STEP < 14, 24.0 - STEP, 10.0)
    flags = np.where(skipped, RecordFlag.SKIPPED_BY_SCALER, 0).astype(np.uint16)
    block = run_of(norms, loss=usual_loss(), loss_scale=scale, flags=flags, nonfinite=counts)
    return block, np.where(skipped, 0.0, 0.002)


def learning_rate_restart() -> tuple[ClosedBlock, Column]:
    """A cosine that begins anew: the rate jumps tenfold, norm and loss rise a little."""
    rate = 1e-3 * (0.1 + 0.9 * (1.0 + np.cos(np.pi * (STEP % 200) / 200.0)) / 2.0)
    norms = noisy(STEPS) * np.where(STEP % 200 < 20, 1.8, 1.0)
    return run_of(norms, loss=usual_loss() * np.where(STEP % 200 < 20, 1.3, 1.0), learning_rate=rate), 2.0 * rate


def accumulation_change() -> tuple[ClosedBlock, Column]:
    """Four times as many batches a step: half the noise, a slightly smaller norm, the same loss."""
    norms = np.where(STEP < AT, noisy(STEPS, octaves=0.5), 0.8 * noisy(STEPS, octaves=0.25))
    return run_of(norms, loss=usual_loss()), np.full(STEPS, 0.002)


def sequence_length_change() -> tuple[ClosedBlock, Column]:
    """Sequences twice as long: a norm larger by half, a loss that is a fifth higher until it is learnt."""
    norms = noisy(STEPS) * np.where(STEP < AT, 1.0, 1.5)
    loss = usual_loss() * np.where(STEP < AT, 1.0, 1.0 + 0.2 * np.exp(-(STEP - AT) / 60.0))
    return run_of(norms, loss=loss), np.full(STEPS, 0.002)


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize(
    "make", [loss_scaler_warm_up, learning_rate_restart, accumulation_change, sequence_length_change]
)
def test_nothing_is_told(make: Callable[[], tuple[ClosedBlock, Column]], every: int) -> None:
    block, ratios = make()
    assert findings_of(sampled(block, ratios, every)) == []
    assert findings_of(block) == []


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("batch", [2.0, 8.0, 32.0, 512.0])
def test_a_loss_that_is_summed_where_it_was_averaged_is_one_warning_at_most(batch: float, every: int) -> None:
    factor = np.where(STEP < AT, 1.0, batch)
    # Adam's second moment lags: its updates are larger for a while.
    ratios = 0.002 * np.where(STEP < AT, 1.0, 1.0 + 4.0 * np.exp(-np.maximum(0, STEP - AT) / 10.0))
    block = run_of(noisy(STEPS) * factor, loss=usual_loss() * factor, learning_rate=np.full(STEPS, 1e-3))
    found = findings_of(sampled(block, ratios, every))
    assert [each.severity for each in found] in ([], [Severity.WARNING, Severity.NONE])
    assert {each.signature for each in found} <= {"spike"}


@pytest.mark.parametrize("branch", [0, 1])
def test_a_resume_from_a_checkpoint_is_silent(branch: int) -> None:
    """Steps are repeated, with the noise of other data, and an optimizer whose moments are new."""
    ratios = np.full(STEPS, 0.002)
    block = sampled(run_of(noisy(STEPS), loss=usual_loss()), ratios, 10)
    again = sampled(run_of(noisy(STEPS, seed=5), loss=usual_loss(seed=6)), ratios, 10)
    watch = RunWatch()
    names = [name for name in ClosedBlock.__dataclass_fields__ if isinstance(getattr(block, name), np.ndarray)]
    resumed = replace(again, **{name: getattr(again, name)[350:] for name in names})
    assert findings_of(block, watch) == []
    assert findings_of(replace(resumed, attempt=2 - branch, branch=branch), watch) == []
