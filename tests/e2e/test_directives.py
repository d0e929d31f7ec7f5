"""A job that is asked, by people and by alerts: real server, real program, real training."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    start_seismograd: Start, start_training: Train
) -> None:
    server = start_seismograd()
    training = start_training(server.grpc, "patient", "--steps", "100000", "--step-seconds", "0.01", "--obey")
    eventually(lambda: len(training.journal()) >= 20, 60, "some steps")
    # Asked and killed at once: whether it was still sent, and whether the answer came, is chance.
    ask(server, "patient", "stop", "--by", "Ada")
    server.process.kill()
    server = server.restart()
    training.finish(timeout=60.0)
    answer = eventually(lambda: directives(server, "patient")[0]["ranks"][0]["outcome"], 30, "an answer")
    assert answer == "applied"
    assert len(directives(server, "patient")) == 1
    assert len(training.journal()) < 100000
