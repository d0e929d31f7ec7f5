from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seismograd_server.model import DetectorStatus, Quantity, RecordFlag, RunState, Severity, Signature, Visibility
from seismograd_server.reading.history import Opening
from seismograd_server.report.build import build
from seismograd_server.report.contents import Report, Verdict
from tests.support.histories import (
    NOW,
    empty_history,
    exploding_history,
    exploding_norm,
    healthy_history,
    healthy_norm,
    make_alert,
    make_rank_window,
    make_run,
    make_series,
    recovered_alert,
)


def titles(report: Report) -> list[str]:
    return [advice.title for advice in report.advice]


def test_an_explosion_is_told_with_its_steps_its_layer_and_its_growth() -> None:
    report = build(exploding_history(), NOW + 300)
    assert report.verdict is Verdict.EXPLODED
    assert report.headline == "Exploded from step 150 on"
    focus = report.focus
    assert (focus.last_healthy, focus.onset, focus.detected, focus.failure) == (149, 150, 153, 180)
    what, whence, then = report.summary
    assert "step 150" in what
    assert "step 180" in what
    assert "the loss stopped being a number" in what
    assert "doubling every 1 steps" in what
    assert "rnn.weight_hh_l0" in whence
    assert "27 steps (27 s) before the failure" in whence
    assert "ended with an error" in then


def test_the_layers_are_listed_in_the_order_in_which_they_rose() -> None:
    report = build(exploding_history(), NOW)
    assert [rise.name for rise in report.rises] == [
        "rnn.weight_hh_l0",
        "rnn.weight_ih_l0",
        "embed.weight",
        "head.weight",
    ]
    assert [rise.step for rise in report.rises] == [152, 155, 156, 158]
    assert report.heatmap is not None
    assert report.heatmap.names == ("embed.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight")
    onset = int(np.searchsorted(report.heatmap.column_last, 160))
    assert report.heatmap.octaves[2, onset] == pytest.approx(11.0)
    assert report.heatmap.nonfinite[:, -1].all()


def test_the_last_good_checkpoint_is_the_last_one_before_the_onset() -> None:
    report = build(exploding_history(), NOW)
    assert report.checkpoint is not None
    assert report.checkpoint.step == 140
    assert "Resume from the checkpoint of step 140" in titles(report)


def test_the_timeline_rises_from_the_last_healthy_step_to_the_failure() -> None:
    report = build(exploding_history(), NOW)
    steps = [event.step for event in report.timeline if event.step is not None]
    assert steps == sorted(steps)
    names = [event.title for event in report.timeline]
    assert names.index("Last healthy step") < names.index("Onset") < len(names) - 2
    assert names[-2].startswith("Failure")
    assert names[-1] == "Run ended with an error"


def test_the_recommended_clip_threshold_lies_between_the_usual_norm_and_its_90th_percentile() -> None:
    report = build(exploding_history(), NOW)
    norms = exploding_norm()[20:150]
    advice = next(each for each in report.advice if each.title.startswith("Clip the gradient norm at"))
    threshold = float(advice.title.rsplit(" ", 1)[1])
    assert np.median(norms) <= threshold <= 1.05 * np.percentile(norms, 90)
    share = 100 * np.mean(norms > threshold)
    shown = dict(advice.numbers)["would have clipped before the onset"]
    assert float(shown.removesuffix(" %")) == pytest.approx(share, abs=0.5)


def test_the_learning_rate_is_lowered_by_what_the_growth_asks_for() -> None:
    report = build(exploding_history(), NOW)
    # Doubling each step: three times too high by the rule for a quadratic valley with as much room again.
    assert "Lower the learning rate 3×: from 0.1 to 0.033" in titles(report)


def test_the_update_ratio_decides_the_factor_where_it_was_sampled() -> None:
    history = exploding_history()
    assert history.layers is not None
    updates = np.full_like(history.layers.norms, np.nan)
    updates[history.layers.steps == 150] = 1.0  # a tenth of the weights' norm of 10

    report = build(replace(history, layers=replace(history.layers, update_norms=updates)), NOW)
    assert "Lower the learning rate 5×: from 0.1 to 0.02" in titles(report)


@pytest.mark.parametrize(("since", "tone"), [(2.4, "warning"), (1.1, "")])
def test_the_gain_of_the_recurrent_matrix_that_rose_most_is_a_key_figure(since: float, tone: str) -> None:
    history = exploding_history()
    assert history.layers is not None
    gains = np.full_like(history.layers.norms, np.nan)
    gains[::10] = [9.0, 1.0, 1.1, 9.0]  # an embedding and a linear layer are not recurrent
    gains[history.layers.steps == 160, 2] = since

    report = build(replace(history, layers=replace(history.layers, sampled={Quantity.SPECTRAL_GAIN: gains})), NOW)
    (fact,) = [fact for fact in report.facts if fact.label == "Recurrent gain"]
    assert fact.value == ("1.1 to 2.4" if tone else "1")
    assert fact.note.startswith(f"{history.layers.names[2 if tone else 1]};")
    assert fact.tone == tone


def test_a_rise_of_the_learning_rate_before_the_onset_is_to_be_undone() -> None:

    history = exploding_history()
    rate = np.where(np.arange(200) < 145, 0.1, 0.8)
    report = build(replace(history, series=replace(history.series, learning_rate=rate)), NOW)
    assert "Undo the rise of the learning rate at step 145" in titles(report)
    assert not any(title.startswith("Lower the learning rate") for title in titles(report))


def test_one_rank_apart_from_the_others_is_named_with_its_host() -> None:
    history = exploding_history()
    assert history.layers is not None
    window = make_rank_window(history.layers.steps, outlier=1, begins=149)
    report = build(exploding_history(rank_window=window), NOW)
    assert report.ranks is not None
    assert (report.ranks.suspect, report.ranks.suspect_step) == (1, 149)
    assert report.ranks.suspect_ratio == pytest.approx(30.0)
    first = report.advice[0]
    assert first.title.startswith("Inspect rank 1")
    assert ("host", "node-b") in first.numbers
    assert "on rank 1" in report.summary[1]
    # What all ranks share is not to blame then.
    assert not any("learning rate" in title for title in titles(report))


def test_ranks_that_agree_are_not_suspected() -> None:
    report = build(exploding_history(), NOW)
    assert report.ranks is not None
    assert report.ranks.suspect is None


def test_a_healthy_run_is_called_healthy_plainly() -> None:
    report = build(healthy_history(), NOW)
    assert report.verdict is Verdict.HEALTHY
    assert report.headline == "Nothing happened"
    assert report.summary[0] == "Nothing happened: no detector fired, and the run finished after step 199."
    assert report.focus.onset is None
    assert report.rises == ()
    (advice,) = report.advice
    assert advice.title.startswith("If you want a safety net: clip at")
    assert float(advice.title.rsplit(" ", 1)[1]) == pytest.approx(
        1.5 * np.percentile(healthy_norm()[20:], 99), rel=0.03
    )
    assert ("would have clipped", "0 %") in advice.numbers


def test_a_run_that_still_goes_says_so_and_how_old_its_last_record_is() -> None:
    run = make_run(state=RunState.RUNNING, ended_at=None)
    report = build(healthy_history(run=run), NOW + 203)
    assert report.headline == "Nothing has happened so far"
    assert "is still running at step 199, last heard of 3.0 s ago" in report.summary[0]
    assert report.timeline[-1].title == "Still running"


def test_an_exploding_run_that_still_goes_has_a_report_too() -> None:
    run = make_run(state=RunState.RUNNING, ended_at=None)
    report = build(exploding_history(run=run), NOW + 300)
    assert report.verdict is Verdict.EXPLODED
    assert "is still running" in report.summary[2]


def test_a_run_without_a_closed_step_says_that_there_is_nothing_to_judge() -> None:
    report = build(empty_history(), NOW + 60)
    assert report.verdict is Verdict.NO_DATA
    assert report.headline == "No step has arrived yet"
    assert "nothing to judge" in report.summary[0]
    assert report.whole is None
    assert report.advice == ()
    assert "Everything: no step was closed." in report.blind


def test_a_spike_that_recovered_is_seen_but_no_explosion() -> None:
    norm = healthy_norm()
    norm[150] *= 50
    report = build(healthy_history(series=make_series(norm), alerts=(recovered_alert(),)), NOW)
    assert report.verdict is Verdict.ALERTED
    assert "the run came through it" in report.summary[0]
    history = healthy_history(series=make_series(norm), alerts=(recovered_alert(),))
    dead = build(replace(history, run=replace(history.run, state=RunState.FAILED)), NOW)
    assert "came through" not in dead.summary[0], "it may have been more than a spike, had it lived"


def test_a_failure_that_no_detector_saw_is_admitted() -> None:
    report = build(exploding_history(alerts=()), NOW)
    assert report.verdict is Verdict.EXPLODED
    assert "no detector raised an alert" in report.summary[1]
    assert any("This failure itself" in spot for spot in report.blind)


def test_growth_from_the_very_first_step_has_no_healthy_level_and_says_so() -> None:
    norm = 1.5 ** np.arange(40.0)
    loss = np.full(40, 2.0)
    loss[30:] = np.inf
    history = healthy_history(
        series=make_series(norm, loss), alerts=(make_alert(since_step=0, opened_step=4),), run=make_run()
    )
    report = build(history, NOW)
    assert report.focus.last_healthy is None
    assert report.healthy is not None
    assert not report.healthy.settled
    assert "Warm the learning rate up over the first 100 steps" in titles(report)
    assert any("A usual level" in spot for spot in report.blind)


def test_steps_that_the_loss_scaler_skipped_are_no_failure() -> None:
    nonfinite = np.zeros((200, 3), np.int64)
    flags = np.zeros(200, np.uint16)
    nonfinite[::40, 1] = 7
    flags[::40] = RecordFlag.SKIPPED_BY_SCALER
    report = build(healthy_history(series=make_series(healthy_norm(), nonfinite=nonfinite, flags=flags)), NOW)
    assert report.verdict is Verdict.HEALTHY
    assert report.whole is not None
    assert report.whole.broken_count == 0
    assert report.whole.skipped_steps.tolist() == [0, 40, 80, 120, 160]


def test_a_single_nan_loss_that_passes_is_no_failure() -> None:
    loss = np.linspace(3.0, 1.0, 200)
    loss[100] = np.nan
    report = build(healthy_history(series=make_series(healthy_norm(), loss)), NOW)
    assert report.focus.failure is None


def test_a_loss_ten_times_its_best_for_good_is_a_divergence_where_the_gradients_stay_calm() -> None:
    loss = np.linspace(3.0, 1.0, 200)
    loss[170:] = 25.0
    report = build(healthy_history(series=make_series(healthy_norm(), loss)), NOW)
    assert report.focus.failure == 170
    assert report.verdict is Verdict.DIVERGED
    assert report.summary[0].startswith("Its loss left its usual range at step 170")


def test_scatter_around_a_tiny_loss_is_no_failure() -> None:
    loss = 1e-4 * np.exp(np.random.default_rng(4).normal(0.0, 1.5, 200))
    loss[:20] = 2.0
    loss[-12:] = 5e-3
    report = build(healthy_history(series=make_series(healthy_norm(), loss)), NOW)
    assert report.verdict is Verdict.HEALTHY


def test_vanishing_gradients_are_never_told_to_be_clipped() -> None:
    alert = make_alert(signature=Signature.VANISHING, severity=Severity.WARNING, since_step=20, opened_step=60)
    report = build(healthy_history(alerts=(alert,)), NOW)
    assert report.verdict is Verdict.ALERTED
    assert [title.split(":")[0] for title in titles(report)] == ["Let the gradient reach the early layers"]


def test_missing_steps_partial_ranks_and_drops_are_stated() -> None:
    keep = np.r_[0:90, 100:200]
    ranks = np.full(190, 2, np.int64)
    ranks[5:8] = 1
    series = make_series(healthy_norm(190), steps=keep.astype(np.int64), ranks_present=ranks)
    report = build(healthy_history(series=series), NOW)
    text = " ".join(report.gaps)
    assert "10 steps between 0 and 199 never arrived, the longest stretch (10) after step 89" in text
    assert "3 steps (1.6 %) closed without all 2 ranks; the first was step 5" in text


def test_what_the_live_detectors_cannot_see_is_repeated() -> None:
    status = DetectorStatus(Signature.VANISHING, Visibility.WARMING_UP, "needs 100 steps, has 3")
    report = build(healthy_history(statuses=(status,)), NOW)
    assert "vanishing gradients: needs 100 steps, has 3." in report.blind


def test_secrets_in_the_configuration_are_covered() -> None:
    rows = dict(build(healthy_history(), NOW).configuration)
    assert rows["optimizer.lr"] == "0.1"
    assert rows["api_key"] == "•••"
    assert "hunter2" not in str(rows)


def test_an_alert_below_critical_does_not_hide_a_critical_one() -> None:
    alerts = (
        make_alert(signature=Signature.SPIKE, severity=Severity.WARNING, since_step=151, opened_step=151),
        make_alert(since_step=150, opened_step=155),
    )
    report = build(exploding_history(alerts=alerts), NOW)
    assert report.focus.lead is not None
    assert report.focus.lead.signature is Signature.RUNAWAY
    assert "a gradient spike was reported at step 151" in report.summary[1]
    assert [entry.number for entry in report.alerts] == [1, 2]


def test_a_long_run_is_thinned_and_keeps_its_one_spike() -> None:
    norm = healthy_norm(50_000)
    norm[31_234] = 9e9
    report = build(healthy_history(series=make_series(norm)), NOW)
    assert report.whole is not None
    assert len(report.whole.steps) < 2500
    assert report.whole.norm.max() == 9e9


def test_the_timeline_tells_what_an_alert_said_when_it_opened() -> None:
    history = exploding_history()
    alert = next(each for each in history.alerts if each.severity is Severity.CRITICAL)
    opening = Opening(Severity.WARNING, "gradient norm 12, six times its baseline")
    report = build(replace(history, openings={alert.alert_id: opening}), NOW)
    event = next(each for each in report.timeline if each.detail == opening.reason)
    assert event.step == alert.opened_step
    assert "(warning, later critical)" in event.title
    assert f"the alert was raised at step {alert.opened_step} (warning, later critical)" in report.summary[1]


def test_an_incident_of_several_runs_does_not_tell_the_story_of_one() -> None:
    fleet = make_alert(signature=Signature.FLEET, scope="signature:runaway", since_step=140, opened_step=140)
    history = exploding_history()
    focus = build(replace(history, alerts=(fleet, *history.alerts)), NOW).focus
    assert focus == build(history, NOW).focus
