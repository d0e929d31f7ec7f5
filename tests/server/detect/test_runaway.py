"""Growth that training will not survive: every ground by itself, and what must not count as one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import ClosedBlock, Evidence, Finding, Severity, Signature
from seismograd_server.transfer.trace_blocks import slice_block
from tests.support.closed import findings_of, layout, noisy, run_of, told, with_ratio

STEPS, ONSET = 300, 200
AFTER = np.arange(STEPS) - ONSET


def rising(octaves_per_step: float, at_most: float = 100.0) -> npt.NDArray[np.float64]:
    """Healthy until the onset, then a straight line in octaves."""
    norms = noisy(STEPS)
    norms[ONSET:] *= 2.0 ** np.minimum(at_most, octaves_per_step * (AFTER[ONSET:] + 1))
    return norms


def losses(factor: npt.NDArray[np.float64] | float = 1.0) -> npt.NDArray[np.float64]:
    """A loss that has come down from 4 to 1, times a factor behind the onset."""
    usual = 1.0 + 3.0 * np.exp(-np.arange(STEPS) / 30.0) + np.random.default_rng(2).normal(0.0, 0.05, STEPS)
    return np.where(AFTER >= 0, usual * factor, usual)


def first(found: list[Finding]) -> Finding:
    return next(each for each in found if each.signature is Signature.RUNAWAY)


@pytest.mark.parametrize(("slope", "within"), [(3.0, 4), (1.0, 6), (0.3, 16)])
def test_growth_is_seen_by_norms_alone_sooner_the_faster_it_is(slope: float, within: int) -> None:
    found = first(findings_of(run_of(rising(slope))))
    assert ONSET <= found.step <= ONSET + within
    assert found.severity is Severity.CRITICAL
    assert found.since_step >= ONSET - 1


def test_the_evidence_holds_the_slope_and_the_steps_to_overflow() -> None:
    found = first(findings_of(run_of(rising(2.0))))
    assert found.evidence.doubling_time_steps == pytest.approx(0.5, rel=0.3)
    assert found.evidence.steps_to_overflow == pytest.approx((128.0 - np.log2(found.evidence.value or 0)) / 2, rel=0.35)


def test_half_precision_overflows_sooner() -> None:
    def steps_to_overflow(dtype: str) -> float:
        found = first(findings_of(run_of(rising(2.0), layout=layout(dtype=dtype))))
        assert found.evidence.steps_to_overflow is not None
        return found.evidence.steps_to_overflow

    assert steps_to_overflow("float16") < steps_to_overflow("bfloat16") == steps_to_overflow("torch.float32")


def test_an_update_that_overwrites_the_weights_is_critical_at_its_own_step() -> None:
    norms = rising(0.0)
    norms[ONSET] = 20.0
    ratios = np.where(AFTER == 0, 0.3, 0.002)
    assert told(findings_of(with_ratio(run_of(norms), ratios)), Signature.RUNAWAY)[0] == (ONSET, Severity.CRITICAL)


def test_small_updates_veto_whatever_the_norm_does() -> None:
    block = with_ratio(run_of(rising(1.0, at_most=9.0)), np.full(STEPS, 0.001))
    assert told(findings_of(block), Signature.RUNAWAY) == []


def test_a_loss_that_follows_confirms_an_excursion_that_does_not_grow() -> None:
    norms = rising(0.0)
    norms[ONSET:] *= 8.0
    followed = told(findings_of(run_of(norms, loss=losses(3.0))), Signature.RUNAWAY)
    unmoved = told(findings_of(run_of(norms[: ONSET + 4], loss=losses()[: ONSET + 4])), Signature.RUNAWAY)
    assert ONSET + 3 <= followed[0][0] <= ONSET + 5
    assert unmoved == []


def test_a_loss_that_is_on_its_way_back_is_waited_for() -> None:
    norms, after = rising(0.0), AFTER[ONSET:]
    norms[ONSET:] *= 2.0 ** np.maximum(0.0, 4.0 - after / 4.0)
    falling = np.ones(STEPS)
    falling[ONSET:] = np.maximum(1.0, 6.0 * 0.85**after)
    found = findings_of(run_of(norms, loss=losses(falling)))
    assert told(found, Signature.RUNAWAY) == []
    assert told(found, Signature.SPIKE)[0] == (ONSET, Severity.WARNING)


def test_slow_growth_over_hundreds_of_steps_is_seen_through_the_loss() -> None:
    steps = 1200
    slow = np.maximum(0.0, (np.arange(steps) - 200) / 250.0)
    found = told(findings_of(run_of(noisy(steps) * 2.0**slow, loss=1.0 + 0.5 * slow**2)), Signature.RUNAWAY)
    assert found
    assert 500 < found[0][0] < 1000


def test_a_slow_rise_with_a_falling_loss_is_training() -> None:
    steps = 1200
    rise = np.arange(steps) / 300.0
    assert findings_of(run_of(noisy(steps) * 2.0**rise, loss=2.0 * 0.998 ** np.arange(steps))) == []


def test_an_explosion_from_the_start_needs_no_baseline() -> None:
    steps = np.arange(20)
    norms = np.geomspace(1.0, 2.0**19, 20)
    found = told(findings_of(run_of(norms, loss=2.0 * 1.5**steps)), Signature.RUNAWAY)
    assert found
    assert found[0][0] <= 8


def test_a_wild_first_second_is_not_an_explosion() -> None:
    norms = noisy(STEPS)
    norms[:10] *= 2.0 ** np.arange(10, 0, -1)
    assert told(findings_of(run_of(norms)), Signature.RUNAWAY) == []


def test_a_new_level_with_small_updates_becomes_the_baseline() -> None:
    norms = noisy(600)
    norms[300:] *= 16.0
    watch = RunWatch()
    block = with_ratio(run_of(norms, loss=np.where(np.arange(600) < 300, 2.0, 32.0)), np.full(600, 0.001))
    found = findings_of(block, watch)
    assert told(found, Signature.RUNAWAY) == []
    assert told(found, Signature.SPIKE)[-1][1] is Severity.NONE
    after = watch.observe(run_of([16.0])).baseline[0]
    assert after == pytest.approx(16.0, rel=0.3)


def test_a_bad_level_never_becomes_usual() -> None:
    norms = noisy(900)
    norms[300:] *= 2.0**12
    block = run_of(norms, loss=np.where(np.arange(900) < 300, 2.0, 300.0))
    watch = RunWatch()
    found = told(findings_of(block, watch), Signature.RUNAWAY)
    assert [severity for _, severity in found] == [Severity.CRITICAL] * len(found)
    assert watch.observe(run_of([1.0])).baseline[0] == pytest.approx(1.0, rel=0.3)


def test_it_is_over_when_the_norm_has_come_back_for_good() -> None:
    norms = rising(2.0)
    norms[ONSET + 8 :] = noisy(STEPS - ONSET - 8, seed=9)
    found = [each for each in findings_of(run_of(norms)) if each.signature is Signature.RUNAWAY]
    assert found[-1].severity is Severity.NONE
    assert ONSET + 40 <= found[-1].step <= ONSET + 60
    assert found[-1].evidence == Evidence()


def test_a_run_on_its_way_to_infinity_is_told_of_a_few_times_only() -> None:
    found = told(findings_of(run_of(rising(1.2))), Signature.RUNAWAY)
    assert 2 <= len(found) <= 6


def test_a_creeping_rise_is_seen_however_small_the_updates() -> None:
    norms, loss = rising(0.06, at_most=6.0), losses(2.0 ** np.maximum(0.0, 0.06 * AFTER))
    block = with_ratio(run_of(norms, loss=loss, learning_rate=np.full(STEPS, 1e-3)), np.full(STEPS, 0.002))
    found = told(findings_of(block), Signature.RUNAWAY)
    assert found
    assert ONSET + 50 < found[0][0] < ONSET + 100


def test_a_thousandfold_norm_that_moves_neither_weights_nor_loss_is_waited_for() -> None:
    norms = rising(0.0)
    norms[ONSET : ONSET + 3] *= 2.0**12
    ratios = np.where((AFTER >= 0) & (AFTER < 3), 0.03, 0.002)
    found = findings_of(with_ratio(run_of(norms, loss=losses()), ratios))
    assert told(found, Signature.RUNAWAY) == []
    assert told(found, Signature.SPIKE)[0] == (ONSET, Severity.WARNING)


def test_large_updates_that_are_usual_in_a_run_are_no_news() -> None:
    norms = rising(0.0)
    norms[ONSET] *= 2.0**2.5
    block = with_ratio(run_of(norms, loss=losses()), np.full(STEPS, 0.06))
    assert told(findings_of(block), Signature.RUNAWAY) == []


def learning(start: int) -> npt.NDArray[np.float64]:
    """A plateau, then a loss that falls by a twentieth a step."""
    falling = 4.0 * 0.95 ** np.clip(np.arange(STEPS) - start, 0, 60)
    return np.asarray(falling * 2.0 ** np.random.default_rng(3).normal(0.0, 0.02, STEPS))


@pytest.mark.parametrize("ratio", [0.03, 0.1])
def test_gradients_and_updates_that_grow_while_the_loss_falls_are_learning(ratio: float) -> None:
    norms, loss = rising(0.15, at_most=3.0), learning(ONSET - 8)
    ratios = np.where(AFTER >= 0, ratio, 0.01)
    assert told(findings_of(with_ratio(run_of(norms, loss=loss), ratios)), Signature.RUNAWAY) == []
    stays = np.where(AFTER >= 0, 8.0, learning(STEPS))
    assert told(findings_of(with_ratio(run_of(norms, loss=stays), ratios)), Signature.RUNAWAY)


def test_a_level_that_is_reached_while_learning_becomes_the_baseline_although_updates_are_large() -> None:
    watch = RunWatch()
    findings_of(with_ratio(run_of(rising(3.0, at_most=3.0), loss=learning(ONSET - 8)), np.full(STEPS, 0.03)), watch)
    assert watch.observe(run_of([8.0])).baseline[0] == pytest.approx(8.0, rel=0.3)


def test_what_clipping_takes_away_is_not_hopeless() -> None:
    norms = rising(0.0)
    norms[ONSET] *= 2.0**12
    loss = np.where(AFTER == 0, 1000.0, losses())
    clipped = run_of(norms, loss=loss, clip_coefficient=1.0 / np.maximum(1.0, norms))
    assert told(findings_of(clipped), Signature.RUNAWAY) == []
    assert told(findings_of(run_of(norms, loss=loss)), Signature.RUNAWAY)[0] == (ONSET, Severity.CRITICAL)


def test_by_the_norm_alone_a_jump_to_a_level_that_stays_is_no_growth() -> None:
    norms = noisy(STEPS, octaves=0.2)
    norms[ONSET:] *= 32.0
    found = findings_of(run_of(norms))
    assert told(found, Signature.RUNAWAY) == []
    assert told(found, Signature.SPIKE)[0] == (ONSET, Severity.WARNING)


@pytest.mark.parametrize("ratio", [0.004, 0.03])
@pytest.mark.parametrize("seed", range(8))
def test_a_noisy_new_scale_does_not_creep_however_long_it_stays(seed: int, ratio: float) -> None:
    noise, scale = noisy(STEPS, seed, octaves=0.6), np.where(AFTER >= 0, 2.0**5, 1.0)
    block = run_of(noise * scale, loss=losses(scale * noise), learning_rate=np.full(STEPS, 1e-3))
    ratios = np.where(AFTER >= 30, 0.004, np.where(AFTER >= 0, ratio, 0.002))
    assert told(findings_of(with_ratio(block, ratios)), Signature.RUNAWAY) == []


@pytest.mark.parametrize("at", [1, 5])
def test_a_wild_step_at_the_very_beginning_that_comes_back_at_once_is_no_explosion(at: int) -> None:
    norms, loss = noisy(60, octaves=0.1), np.full(60, 2.0)
    norms[at], loss[at] = 12.0, 100.0
    assert told(findings_of(run_of(norms, loss=loss)), Signature.RUNAWAY) == []
    norms[at + 1], loss[at + 1] = 600.0, 1e4
    assert told(findings_of(run_of(norms, loss=loss)), Signature.RUNAWAY)[0] == (at + 1, Severity.CRITICAL)


def lifted(octaves: float, *, shares: float = 0.0, more_per_step: float = 0.0) -> ClosedBlock:
    """Eight layers, each with noise of its own, that leap at the onset; from there on their shares drift apart."""
    noise = np.random.default_rng(5).normal(0.0, 0.2, (STEPS, 8))
    after = np.maximum(0, AFTER + 1)[:, None]
    rise = octaves * (after > 0) + more_per_step * after + shares * np.minimum(after, 4) * np.linspace(-1.0, 1.0, 8)
    layers = np.asarray(2.0 ** (noise + rise), dtype=np.float32)
    norms = np.sqrt((layers.astype(np.float64) ** 2).sum(1))
    return run_of(norms, layout=layout([f"layer.{number}.weight" for number in range(8)]), layer_norms=layers)


def with_loss(block: ClosedBlock, factor: npt.NDArray[np.float64] | float) -> ClosedBlock:
    return replace(block, loss=losses(factor), loss_known=np.ones(STEPS, dtype=np.bool_))


@pytest.mark.parametrize("knows_loss", [True, False])
def test_a_loss_that_is_summed_from_now_on_is_one_warning_that_is_soon_over(knows_loss: bool) -> None:
    block = with_loss(lifted(5.0), 32.0) if knows_loss else lifted(5.0)
    watch = RunWatch()
    found = findings_of(block, watch)
    assert told(found, Signature.RUNAWAY) == []
    spikes = told(found, Signature.SPIKE)
    assert [severity for _, severity in spikes] == [Severity.WARNING, Severity.NONE]
    assert spikes[1][0] <= ONSET + 32
    after = watch.observe(slice_block(block, STEPS - 1, STEPS)).baseline[0]
    assert after == pytest.approx(2.0**5.0 * np.sqrt(8.0), rel=0.4)


def test_a_smaller_batch_lifts_every_layer_and_not_the_loss() -> None:
    assert told(findings_of(with_loss(lifted(2.8), 1.0)), Signature.RUNAWAY) == []


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(with_loss(lifted(5.0, shares=0.5), 32.0), id="the layers' shares drift apart"),
        pytest.param(with_loss(lifted(5.0), 1024.0), id="the loss rises by the norm's square"),
        pytest.param(with_loss(lifted(3.0, more_per_step=0.1), 8.0), id="the norm goes on rising"),
    ],
)
def test_what_is_more_than_another_scale_is_critical(block: ClosedBlock) -> None:
    found = told(findings_of(block), Signature.RUNAWAY)
    assert found
    assert found[0][1] is Severity.CRITICAL
    assert found[0][0] <= ONSET + 40


def test_another_scale_is_found_whatever_the_cuts_between_blocks() -> None:
    block = with_loss(lifted(5.0), 32.0)
    watch = RunWatch()
    cuts = [0, 150, ONSET - 1, ONSET, ONSET + 3, ONSET + 19, ONSET + 21, STEPS]
    in_parts = [each for a, b in itertools.pairwise(cuts) for each in findings_of(slice_block(block, a, b), watch)]
    assert in_parts == findings_of(block)


def test_a_single_odd_batch_does_not_hide_that_only_the_scale_has_changed() -> None:
    block = with_loss(lifted(5.0), 32.0)
    block.layer_norms[ONSET + 9, ::2] *= 8.0
    assert told(findings_of(block), Signature.RUNAWAY) == []


def test_the_noise_of_a_lifted_gradient_is_no_growth() -> None:
    block = lifted(4.0)
    block.layer_norms[ONSET + 4] *= 2.0**1.8
    block.global_norm[ONSET + 4] *= 2.0**1.8
    found = findings_of(block)
    assert told(found, Signature.RUNAWAY) == []
    assert told(found, Signature.SPIKE)[0] == (ONSET, Severity.WARNING)


def test_where_no_update_has_been_sampled_since_the_layers_tell_of_a_smaller_batch() -> None:
    ratios = np.where(np.arange(STEPS) % 10 == 9, 0.008, np.nan)
    ratios[0] = 0.008
    block = replace(with_ratio(with_loss(lifted(2.8), 1.0), ratios), learning_rate=np.full(STEPS, 1e-3))
    assert told(findings_of(block), Signature.RUNAWAY) == []


def test_by_the_norm_alone_a_young_run_whose_norms_rise_may_have_begun_to_learn() -> None:
    rise = np.clip((np.arange(STEPS) - 20) / 3.0, 0.0, 3.5)
    assert told(findings_of(run_of(noisy(STEPS, octaves=0.5) * 2.0**rise)), Signature.RUNAWAY) == []
    explodes = np.clip(np.arange(STEPS) - 40.0, 0.0, 40.0)
    found = told(findings_of(run_of(noisy(STEPS, octaves=0.5) * 2.0**explodes)), Signature.RUNAWAY)
    assert 40 < found[0][0] <= 48


def test_by_the_norm_alone_a_single_step_is_never_hopeless_and_a_second_one_is() -> None:
    norms = rising(0.0)
    norms[ONSET] *= 2.0**12
    found = findings_of(run_of(norms))
    assert told(found, Signature.RUNAWAY) == []
    assert told(found, Signature.SPIKE)[0] == (ONSET, Severity.WARNING)
    norms[ONSET + 1] *= 2.0**12
    assert told(findings_of(run_of(norms)), Signature.RUNAWAY)[0] == (ONSET + 1, Severity.CRITICAL)


def test_a_single_step_is_not_hopeless_while_its_update_is_small_whatever_its_loss() -> None:
    norms = rising(0.0)
    norms[ONSET] *= 2.0**12
    block = run_of(norms, loss=np.where(AFTER == 0, 1e4, losses()))
    assert told(findings_of(with_ratio(block, np.where(AFTER == 0, 0.03, 0.002))), Signature.RUNAWAY) == []


def test_a_norm_that_stays_up_is_waited_for_while_the_loss_is_better_than_untrained_and_falls() -> None:
    norms, after = rising(0.0), AFTER[ONSET:]
    norms[ONSET:] *= 2.0 ** np.where(after < 20, 3.0, 0.0)
    falling, stuck = np.ones(STEPS), np.where(AFTER >= 0, 1.9, 1.0)
    falling[ONSET:] = np.maximum(1.0, 1.9 * 0.97**after)
    assert told(findings_of(run_of(norms, loss=losses(falling))), Signature.RUNAWAY) == []
    assert told(findings_of(run_of(norms, loss=losses(stuck * 3.0))), Signature.RUNAWAY)
