"""SIGKILL of the server in the middle of a run: nothing acknowledged is lost, nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import seismograd
from tests.support.processes import eventually
from tests.support.seismograd import SeismogradServer, Training


@pytest.mark.timeout(240)
def test_a_killed_and_restarted_server_leaves_a_series_without_gap_or_duplicate(
    start_seismograd: Callable[..., SeismogradServer], start_training: Callable[..., Training]
) -> None:
    server = start_seismograd()
    training = start_training(
        server.grpc, "outlives-its-server", "--steps", "600", "--step-seconds", "0.01", linger=True
    )
    for milestone in (100, 250, 400):
        eventually(lambda reached=milestone: len(training.journal()) >= reached, 60, f"{milestone} steps")  # type: ignore[misc]  # bound in the loop
        server.process.kill()
        server = server.restart()
    eventually(
        lambda: server.get("/api/v1/runs/e2e/outlives-its-server")["closed_steps"] == 600, 120, "every step closed"
    )
    training.let_go()
    training.finish()

    truth = {row["step"]: row["norm"] for row in training.journal()}
    with seismograd.connect(server.grpc) as client:
        reader = client.run("e2e", "outlives-its-server")
        norms, info = reader.grad_norms(), reader.info()
    assert norms.steps.tolist() == list(range(600))
    np.testing.assert_allclose(norms.values, [truth[step] for step in range(600)], rtol=1e-5)
    assert (info.state, info.attempts, info.firing_alerts) == ("finished", 1, 0)
    assert 'seismograd_run_missing_records_total{project="e2e",run="outlives-its-server"} 0' in server.page("/metrics")


def test_the_same_alerts_come_of_an_explosion_whether_the_server_was_killed_or_not(
    start_seismograd: Callable[..., SeismogradServer], start_training: Callable[..., Training]
) -> None:
    # What an alert asks of the flight recorder is sampled when the job hears of it, which is a matter of time.
    server = start_seismograd("[capture]\nautomatic = false\n")
    options = ("--steps", "240", "--explode-at", "150", "--step-seconds", "0.01")
    start_training(server.grpc, "undisturbed", *options).finish()
    disturbed = start_training(server.grpc, "disturbed", *options, linger=True)
    for milestone in (80, 155):
        eventually(lambda reached=milestone: len(disturbed.journal()) >= reached, 60, f"{milestone} steps")  # type: ignore[misc]  # bound in the loop
        server.process.kill()
        server = server.restart()
    eventually(lambda: server.get("/api/v1/runs/e2e/disturbed")["closed_steps"] == 240, 120, "every step closed")
    disturbed.let_go()
    disturbed.finish()

    def told(run: str) -> set[tuple[str, str, int]]:
        alerts = server.get(f"/api/v1/runs/e2e/{run}/alerts")["alerts"]
        return {(alert["signature"], alert["severity"], alert["opened_step"]) for alert in alerts}

    assert told("undisturbed")
    assert told("disturbed") == told("undisturbed")
