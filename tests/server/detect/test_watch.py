"""The watch as the pipeline holds it: failures stay inside, state goes through bytes, statuses tell what is seen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest

from seismograd_server.detect import watch as watch_module
from seismograd_server.detect.context import Context
from seismograd_server.detect.facts import Step
from seismograd_server.detect.spike import SpikeDetector
from seismograd_server.detect.state import SETTING, StateError, pack
from seismograd_server.detect.stretch import Stretch
from seismograd_server.detect.watch import RunWatch, WatchConfig
from seismograd_server.model import DetectorStatus, Finding, Severity, Signature, Visibility
from tests.support.closed import findings_of, noisy, run_of, told


@dataclass(slots=True)
class Failing:
    """A detector that raises from a certain step on."""

    signature: ClassVar[Signature] = Signature.VANISHING

    config: object = field(default=None, metadata=SETTING)
    looked: int = 0

    def observe(self, step: Step, context: Context) -> Finding | None:  # noqa: ARG002 (the protocol's form)
        self.looked += 1
        if step.step >= 5:
            raise ZeroDivisionError("of all things")
        return None

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        return 0

    def skip(self, stretch: Stretch) -> None:
        raise AssertionError(f"it is never idle, and was spared {stretch.count} steps")

    def status(self, context: Context) -> DetectorStatus:  # noqa: ARG002 (the protocol's form)
        return DetectorStatus(self.signature, Visibility.ARMED, "")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "DETECTORS", (Failing, SpikeDetector))


def test_a_detector_that_raises_is_quarantined_and_told_once(failing: None) -> None:
    norms = noisy(100)
    norms[60] = 500.0
    watch = RunWatch()
    observation = watch.observe(run_of(norms))
    assert observation.failures == ((Signature.VANISHING, "ZeroDivisionError at step 5: of all things"),)
    assert told(observation.findings, Signature.SPIKE)[0] == (60, Severity.WARNING)
    assert watch.observe(run_of(norms)).failures == ()
    blind = watch.statuses()[0]
    assert (blind.signature, blind.visibility) == (Signature.VANISHING, Visibility.BLIND)
    assert "of all things" in blind.because


def test_quarantine_survives_a_restart(failing: None) -> None:
    watch = RunWatch()
    watch.observe(run_of(noisy(20)))
    restored = RunWatch.from_bytes(watch.to_bytes())
    assert restored.statuses()[0].visibility is Visibility.BLIND
    assert restored.observe(run_of(noisy(20))).failures == ()


def test_when_the_shared_context_fails_every_detector_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Context, step: Step) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Context, "read", fail)
    observation = RunWatch().observe(run_of(noisy(3)))
    assert {signature for signature, _ in observation.failures} == {each.signature for each in watch_module.DETECTORS}


def test_the_baseline_is_the_one_before_each_step() -> None:
    norms = noisy(50)
    baseline = RunWatch().observe(run_of(norms)).baseline
    assert np.isnan(baseline[:20]).all()
    assert baseline[20] == pytest.approx(np.sort(norms[:20])[9])
    assert baseline[49] == pytest.approx(np.sort(norms[:49])[24])


def test_statuses_go_from_warming_up_to_armed() -> None:
    watch = RunWatch()
    watch.observe(run_of(noisy(10)))
    before = {each.signature: each for each in watch.statuses()}
    assert before[Signature.NONFINITE].visibility is Visibility.ARMED
    assert before[Signature.RUNAWAY] == DetectorStatus(
        Signature.RUNAWAY, Visibility.WARMING_UP, "10 of 20 steps for a first baseline"
    )
    watch.observe(run_of(noisy(100)))
    blind = {each.signature for each in watch.statuses() if each.visibility is not Visibility.ARMED}
    assert {Signature.NONFINITE, Signature.RUNAWAY, Signature.SPIKE, Signature.VANISHING}.isdisjoint(blind)


def test_what_a_run_does_not_send_is_said_to_be_unseen() -> None:
    watch = RunWatch()
    watch.observe(run_of(noisy(100)))
    assert {each.signature: each.because for each in watch.statuses() if each.visibility is Visibility.BLIND} == {
        Signature.LOSS_DIVERGENCE: "no loss is logged",
        Signature.DEPTH_GROWTH: "fewer than 6 layers whose gradients are known",
        Signature.RECURRENT_GAIN: "no gain of a recurrent matrix is sampled",
        Signature.UPDATE_OVERSHOOT: "updates and weights are not sampled",
        Signature.CLIP_SATURATION: "no clipping is known",
        Signature.RANK_OUTLIER: "no norms of several ranks from before the all-reduce are known",
        Signature.LOSS_SCALE_COLLAPSE: "no loss scale is known",
    }


def test_a_run_without_norms_is_said_to_be_unseen() -> None:
    watch = RunWatch()
    watch.observe(run_of(np.full(100, np.nan)))
    assert (
        DetectorStatus(Signature.SPIKE, Visibility.BLIND, "the gradient norm is zero or not known") in watch.statuses()
    )


def test_a_muted_signature_is_not_looked_for() -> None:
    norms = noisy(100)
    norms[60] = 500.0
    watch = RunWatch(WatchConfig(muted=frozenset({Signature.SPIKE})))
    assert findings_of(run_of(norms), watch) == []
    assert Signature.SPIKE not in {each.signature for each in watch.statuses()}


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(StateError, match="version 999, this program reads"):
        RunWatch.from_bytes(pack({"version": 999}))


def test_an_empty_block_changes_nothing() -> None:
    watch = RunWatch()
    watch.observe(run_of(noisy(50)))
    before = watch.to_bytes()
    assert watch.observe(run_of([])).findings == ()
    assert watch.to_bytes() == before


def test_after_a_restart_of_the_run_an_event_must_be_larger() -> None:
    norms = noisy(40)
    norms[5] = 12.0
    watch = RunWatch()
    watch.observe(run_of(noisy(100)))
    same, again = RunWatch.from_bytes(watch.to_bytes()), RunWatch.from_bytes(watch.to_bytes())
    assert findings_of(run_of(norms), same) != []
    assert findings_of(replace(run_of(norms), attempt=2), again) == []


@pytest.mark.parametrize("has_loss", [False, True])
def test_a_calm_run_is_taken_in_at_once(monkeypatch: pytest.MonkeyPatch, has_loss: bool) -> None:
    looked_at: list[int] = []
    read = Context.read

    def count(self: Context, step: Step) -> None:
        looked_at.append(step.step)
        read(self, step)

    monkeypatch.setattr(Context, "read", count)
    losses = np.linspace(3.0, 2.0, 1000)
    findings_of(run_of(noisy(1000), loss=losses) if has_loss else run_of(noisy(1000)))
    assert len(looked_at) < 80  # the first window, and what is not worth it at the ends of stretches
