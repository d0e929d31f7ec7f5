"""The main job with real parts: a model explodes; Alertmanager, Prometheus, the series and the report all tell it."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import seismograd
from tests.support.monitoring import Alertmanager, Prometheus
from tests.support.processes import eventually, require_program
from tests.support.receiver import Received, Receiver
from tests.support.seismograd import SeismogradServer, Training
from tests.support.seismograd import seismograd as program

# Families of METRICS.md that a run of this kind must show, and the server's own.
PROMISED_FAMILIES = [
    "run_info",
    "run_state",
    "run_step",
    "run_start_timestamp_seconds",
    "run_last_record_timestamp_seconds",
    "run_world_size",
    "run_ranks_reporting",
    "run_grad_norm",
    "run_grad_norm_baseline",
    "run_grad_norm_deviation_ratio",
    "run_grad_norm_window_max",
    "run_loss",
    "run_learning_rate",
    "run_update_ratio",
    "run_steps_total",
    "run_nonfinite_steps_total",
    "run_skipped_steps_total",
    "run_clipped_steps_total",
    "run_signatures_total",
    "run_missing_records_total",
    "run_signature_active",
    "build_info",
    "ingest_requests_total",
    "ingest_records_total",
    "ingest_request_duration_seconds",
    "ingest_record_delay_seconds",
    "ingest_inflight_bytes",
    "ingest_limit_bytes",
    "ingest_standing_bytes",
    "ingest_standing_limit_bytes",
    "ingest_refusals_total",
    "storage_commit_duration_seconds",
    "storage_size_bytes",
    "storage_free_bytes",
    "storage_errors_total",
    "detector_lag_seconds",
    "detector_evaluations_total",
    "notifications_total",
    "notifications_pending",
    "notification_latency_seconds",
]


def first_failure(journal: list[dict[str, Any]]) -> int:
    """The first step whose loss was not finite, or ten times the best so far."""
    best = math.inf
    for row in journal:
        if not math.isfinite(row["loss"]) or row["loss"] > 10 * best:
            return int(row["step"])
        best = min(best, row["loss"])
    raise AssertionError("the run did not fail: the test's premise is gone")


def signatures(requests: list[Received], status: str) -> set[str]:
    """Signatures that a receiver of Alertmanager has heard of in this status."""
    return {
        alert["labels"]["signature"]
        for request in requests
        for alert in request.json()["alerts"]
        if alert["status"] == status
    }


def test_an_explosion_is_told_before_the_run_fails_and_everywhere(
    start_seismograd: Callable[..., SeismogradServer],
    start_training: Callable[..., Training],
    start_alertmanager: Callable[[str], Alertmanager],
    start_prometheus: Callable[[str], Prometheus],
    receiver: Receiver,
) -> None:
    alertmanager = start_alertmanager(f"{receiver.url}/heard")
    server = start_seismograd(f'[notify]\nalertmanagers = ["{alertmanager.url}"]\nhold_resolved_seconds = 2\n')
    prometheus = start_prometheus(f"{server.http}/metrics")

    training = start_training(server.grpc, "over-the-edge", "--steps", "260", "--explode-at", "150")
    training.finish()

    # The alert came before the failure, and says which layer led.
    failure = first_failure(training.journal())
    alerts = server.get("/api/v1/runs/e2e/over-the-edge/alerts")["alerts"]
    critical = [alert for alert in alerts if alert["severity"] == "critical"]
    assert critical, alerts
    assert min(alert["opened_step"] for alert in critical) < failure
    assert all(alert["opened_step"] >= 150 for alert in alerts), "nothing may be said of the healthy part"

    # It reached a person through Alertmanager, and Prometheus can draw it.
    heard = receiver.wait_for(lambda requests: bool(signatures(requests, "firing") & {"runaway", "nonfinite"}))
    assert heard
    eventually(
        lambda: prometheus.query('seismograd_run_signature_active{run="over-the-edge"} == 3'),
        30,
        "a critical signature",
    )

    # The page holds what was promised, within bounds, and promtool finds nothing wrong with it.
    page = server.page("/metrics")
    missing = [name for name in PROMISED_FAMILIES if f"# TYPE seismograd_{name} " not in page]
    assert missing == []
    assert sum('run="over-the-edge"' in line for line in page.splitlines()) <= 64
    promtool = [require_program("promtool", "prometheus"), "check", "metrics"]
    check = subprocess.run(promtool, input=page, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr

    # The series is what plain torch computed, norm by norm; what was not finite is counted, not lost.
    truth = {row["step"]: row["norm"] for row in training.journal()}
    with seismograd.connect(server.grpc) as client:
        norms = client.run("e2e", "over-the-edge").grad_norms()
    assert norms.steps.tolist() == sorted(truth)
    finite = norms.nonfinite_counts == 0
    expected = np.array([truth[step] for step in norms.steps.tolist()])
    np.testing.assert_allclose(norms.values[finite], expected[finite], rtol=1e-5)
    assert np.isfinite(expected[finite]).all()

    # The report explains it.
    report = program("postmortem", "e2e/over-the-edge", "--server-url", server.http, "--format", "md", "-o", "-")
    assert report.returncode == 0, report.stderr
    assert "runaway" in report.stdout or "nonfinite" in report.stdout


def test_an_alert_is_resolved_when_the_run_recovers_and_alertmanager_hears_of_it(
    start_seismograd: Callable[..., SeismogradServer],
    start_training: Callable[..., Training],
    start_alertmanager: Callable[[str], Alertmanager],
    receiver: Receiver,
) -> None:
    alertmanager = start_alertmanager(f"{receiver.url}/heard")
    server = start_seismograd(
        f'[notify]\nalertmanagers = ["{alertmanager.url}"]\nhold_resolved_seconds = 2\n'
        'runbooks_url = "https://docs.example/runbooks"\n'
    )
    options = ("--steps", "700", "--explode-at", "150", "--recover-at", "190")
    training = start_training(server.grpc, "recovers", *options, hold_recovery=True)
    # Alertmanager tells no one of the end of an alert that it has told no one of.
    (first, *_) = receiver.wait_for(lambda requests: "runaway" in signatures(requests, "firing"), timeout=60)
    page = first.json()["alerts"][0]["annotations"]["runbook_url"]
    assert page == f"https://docs.example/runbooks/{first.json()['alerts'][0]['labels']['alertname']}.md"
    training.let_recover()
    training.finish()

    alerts = server.get("/api/v1/runs/e2e/recovers/alerts")["alerts"]
    told = [alert for alert in alerts if not alert["inhibited_by"]]
    recovered = {alert["signature"] for alert in told if alert["resolution"] == "recovered"}
    assert "runaway" in recovered, alerts
    receiver.wait_for(lambda requests: "runaway" in signatures(requests, "resolved"), timeout=60)


def test_a_healthy_run_raises_nothing(
    start_seismograd: Callable[..., SeismogradServer], start_training: Callable[..., Training]
) -> None:
    server = start_seismograd()
    training = start_training(server.grpc, "healthy", "--steps", "300")
    training.finish()
    run = server.get("/api/v1/runs/e2e/healthy")
    assert (run["state"], run["closed_steps"]) == ("finished", 300)
    assert server.get("/api/v1/runs/e2e/healthy/alerts")["alerts"] == []


@pytest.mark.timeout(240)
def test_a_silence_and_an_acknowledgement_are_respected_all_the_way_to_alertmanager(
    start_seismograd: Callable[..., SeismogradServer],
    start_training: Callable[..., Training],
    start_alertmanager: Callable[[str], Alertmanager],
    receiver: Receiver,
) -> None:
    alertmanager = start_alertmanager(f"{receiver.url}/heard")
    server = start_seismograd(
        f'[notify]\nalertmanagers = ["{alertmanager.url}"]\nresend_seconds = 5\nhold_resolved_seconds = 0\n'
    )

    def run(*arguments: str) -> str:
        done = program(*arguments, "--server-url", server.http, "--by", "Ada")
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("silence", "add", "--run", "quiet-*", "--for", "1h", "--reason", "a rehearsal")
    start_training(server.grpc, "quiet-1", "--steps", "300", "--explode-at", "150", "--step-seconds", "0.01").finish()
    start_training(server.grpc, "loud", "--steps", "300", "--explode-at", "150", "--step-seconds", "0.01").finish()

    def told(status: str) -> set[str]:
        found = [alert for each in receiver.requests for alert in each.json()["alerts"]]
        return {alert["labels"]["run"] for alert in found if alert["status"] == status}

    receiver.wait_for(lambda _: "loud" in told("firing"), timeout=60)
    fires = server.get("/api/v1/runs/e2e/quiet-1/alerts?state=firing")["alerts"]
    assert any(alert["silenced_by"] and alert["severity"] == "critical" for alert in fires), "it opened all the same"
    assert told("firing") == {"loud"}, "and nobody heard, although what fires is repeated every five seconds"

    silence = json.loads(program("silence", "list", "--json", "--server-url", server.http).stdout)["silences"][0]
    run("silence", "expire", silence["silence_id"])
    receiver.wait_for(lambda _: "quiet-1" in told("firing"), timeout=60)

    for alert in server.get("/api/v1/runs/e2e/loud/alerts?state=firing")["alerts"]:
        run("alerts", "ack", alert["alert_id"], "--note", "seen")
    receiver.wait_for(lambda _: "loud" in told("resolved"), timeout=60)
