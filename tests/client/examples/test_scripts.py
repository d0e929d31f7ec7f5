"""The example scripts run as they are, alone and on several ranks; without a server, and none the worse for it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
import torch

from seismograd.examples import workbench

SCRIPTS = ("char_lstm", "char_rnn", "deep_mlp", "char_transformer", "rank_fault")


@pytest.fixture(autouse=True)
def _without_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEISMOGRAD_MODE", "off")
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def run_main(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    threads = torch.get_num_threads()
    try:
        code: int = importlib.import_module(f"seismograd.examples.{name}").main()
    finally:
        torch.set_num_threads(threads)
    return code


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_trains_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(name, monkeypatch, "--steps", "3") == 0


def test_a_script_whose_training_fails_says_so_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_main(
        "rank_fault", monkeypatch, "--steps", "30", "--learning-rate", "1e4", "--warm-up-steps", "1", "--clip", "0"
    )
    assert code == workbench.TRAINING_FAILED
    assert "training failed at step" in capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_main(name, monkeypatch, "--help")
    assert ended.value.code == 0
    assert "Pushed over the edge" in (said := capsys.readouterr().out) or "damaged" in said


def test_torchrun_runs_a_script_on_two_ranks() -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "seismograd.examples.char_lstm", "--steps", "3"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
