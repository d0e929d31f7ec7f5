"""A job that is asked, by people and by alerts: real server, real program, real training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import eventually
from tests.support.seismograd import SeismogradServer, Training, seismograd

Start = Callable[..., SeismogradServer]
Train = Callable[..., Training]


def directives(server: SeismogradServer, run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get(f"/api/v1/runs/e2e/{run}")["directives"]
    return found


def ask(server: SeismogradServer, *arguments: str) -> dict[str, Any]:
    done = seismograd("ask", *arguments, "--server-url", server.http, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.timeout(180)
def test_a_job_that_is_asked_saves_and_then_stops_by_its_own_decision(
    start_seismograd: Start, start_training: Train
) -> None:
    server = start_seismograd()
    training = start_training(server.grpc, "obeys", "--steps", "100000", "--step-seconds", "0.01", "--obey")
    eventually(lambda: len(training.journal()) >= 20, 60, "some steps")
    ask(server, "e2e/obeys", "checkpoint", "--by", "Ada")
    eventually(lambda: server.get("/api/v1/runs/e2e/obeys")["checkpoints"], 30, "a checkpoint")
    ask(server, "obeys", "stop", "--by", "Ada", "--reason", "too dear")
    training.finish(timeout=60.0)

    run = server.get("/api/v1/runs/e2e/obeys")
    last = training.journal()[-1]["step"]
    assert (run["state"], run["last_step"]) == ("finished", last)
    stop, checkpoint = run["directives"]
    assert (stop["asked_by"], stop["reason"]) == ("Ada", "too dear")
    (answered,) = stop["ranks"]
    assert (answered["rank"], answered["outcome"], answered["step"]) == (0, "applied", last)
    assert stop["asked_at"] <= answered["sent_at"] <= answered["answered_at"]
    (saved,) = run["checkpoints"]
    assert checkpoint["ranks"][0]["step"] == saved["step"]
    assert saved["path"] == f"/checkpoints/{saved['step']}.pt"


@pytest.mark.timeout(180)
def test_a_job_that_never_asks_is_not_changed_and_says_so_at_its_end(
    start_seismograd: Start, start_training: Train
) -> None:
    server = start_seismograd()
    training = start_training(server.grpc, "deaf", "--steps", "100", "--step-seconds", "0.01", linger=True)
    eventually(lambda: len(training.journal()) >= 20, 60, "some steps")
    ask(server, "deaf", "stop")
    eventually(lambda: len(training.journal()) == 100, 60, "every step")
    eventually(lambda: directives(server, "deaf")[0]["ranks"][0]["sent_at"], 30, "the question went out")
    training.let_go()
    training.finish()
    (answered,) = directives(server, "deaf")[0]["ranks"]
    assert (answered["outcome"], answered["step"]) == ("ignored", 99)


@pytest.mark.timeout(240)
def test_a_server_killed_between_question_and_answer_hears_the_answer_once(
    start_seismograd: Start, start_training: Train, tmp_path: Path
) -> None:
    server, listening = start_seismograd(), tmp_path / "listening"
    options = ("--steps", "100000", "--step-seconds", "0.01", "--obey", "--save-after", str(listening))
    training = start_training(server.grpc, "patient", *options)
    eventually(lambda: len(training.journal()) >= 20, 60, "some steps")
    ask(server, "patient", "checkpoint", "--by", "Ada")
    eventually(lambda: directives(server, "patient")[0]["ranks"][0]["sent_at"], 30, "the question went out")
    server.process.kill()
    listening.touch()
    decided = len(training.journal())
    eventually(lambda: len(training.journal()) > decided + 20, 30, "it has been decided while nobody listened")
    server = server.restart()
    eventually(lambda: directives(server, "patient")[0]["ranks"][0]["outcome"], 60, "an answer")
    run = server.get("/api/v1/runs/e2e/patient")
    (saved,) = run["checkpoints"]
    (answered,) = run["directives"][0]["ranks"]
    assert (answered["outcome"], answered["step"]) == ("applied", saved["step"])

    ask(server, "patient", "stop", "--by", "Ada")
    training.finish(timeout=60.0)
    run = server.get("/api/v1/runs/e2e/patient")
    assert [each["ranks"][0]["outcome"] for each in run["directives"]] == ["applied", "applied"]
    assert run["directives"][1]["ranks"] == [answered], "told once"
    assert len(run["checkpoints"]) == 1


@pytest.mark.timeout(180)
def test_an_explosion_makes_the_server_ask_for_the_flight_recorder_before_and_after(
    start_seismograd: Start, start_training: Train
) -> None:
    server = start_seismograd("[capture]\nsteps_before = 30\nsteps_after = 20\n")
    options = ("--steps", "300", "--explode-at", "150", "--step-seconds", "0.02")
    start_training(server.grpc, "explodes", *options).finish()

    run = server.get("/api/v1/runs/e2e/explodes")
    alerts = {alert["alert_id"]: alert for alert in server.get("/api/v1/runs/e2e/explodes/alerts")["alerts"]}
    asked = run["directives"]
    assert {each["kind"] for each in asked} == {"capture"}, "never asked to stop without a person"
    first = asked[-1]
    assert (first["asked_by"], alerts[first["alert_id"]]["severity"]) in {
        ("seismograd", "warning"),
        ("seismograd", "critical"),
    }
    (answered,) = first["ranks"]
    assert answered["outcome"] == "applied", answered
    detail = server.get("/api/v1/runs/e2e/explodes/recorder?rank=0")
    wanted = {step for each in asked for step in range(each["first_step"], each["last_step"] + 1)}
    assert detail["steps"] == sorted(wanted & set(range(300)))
    (recorded,) = server.get("/api/v1/runs/e2e/explodes/postmortem?format=json")["recorded"]
    assert (recorded["rank"], recorded["steps"]) == (0, len(detail["steps"]))
    assert recorded["layer"] in detail["layers"]
    layers = server.get(f"/api/v1/runs/e2e/explodes/layers?first_step={detail['steps'][0]}&columns=1000")
    shared = dict(zip(layers["steps"], layers["grad_norm"], strict=True))
    for step, row in zip(detail["steps"], detail["grad_norm"], strict=True):
        if step in shared:
            assert sorted(map(str, row)) == sorted(map(str, shared[step]))
    # The steps behind the question were sampled whole, not one in ten.
    sampled = [step for step, row in zip(detail["steps"], detail["update_norm"], strict=True) if row[0] is not None]
    assert len(sampled) >= 10
    assert any(later - earlier == 1 for earlier, later in itertools.pairwise(sampled))


POLICY = """
[[policy]]
signature = ["runaway", "nonfinite", "loss_divergence", "update_overshoot"]
ask = ["checkpoint", "stop"]
an_hour = 1
"""


@pytest.mark.timeout(240)
def test_a_policy_stops_an_exploding_job_that_has_agreed_to_it_and_the_gate_says_so(
    start_seismograd: Start, start_training: Train, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(POLICY)
    server = start_seismograd(f'[rules]\nfile = "{rules}"\n')
    options = ("--steps", "100000", "--explode-at", "150", "--step-seconds", "0.02", "--obey")
    training = start_training(server.grpc, "agreed", *options)
    training.finish(timeout=180.0)

    run = server.get("/api/v1/runs/e2e/agreed")
    last = training.journal()[-1]["step"]
    assert 150 < last < 100_000 - 1
    asked = {each["kind"]: each for each in run["directives"] if each["reason"].startswith("by policy, ")}
    assert set(asked) == {"checkpoint", "stop"}
    alerts = {alert["alert_id"] for alert in server.get("/api/v1/runs/e2e/agreed/alerts")["alerts"]}
    for each in asked.values():
        assert (each["asked_by"], each["alert_id"] in alerts) == ("seismograd", True)
        assert each["ranks"][0]["outcome"] == "applied"
    assert asked["stop"]["ranks"][0]["step"] == last
    gate = seismograd("check", "e2e/agreed", "--wait", "--timeout", "60s", "--server-url", server.http)
    assert gate.returncode == 3, gate.stderr
