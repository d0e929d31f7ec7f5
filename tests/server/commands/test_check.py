"""The gate for pipelines, and the examples that use it."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from seismograd_server.commands.check import FIRING, UNKNOWN, check
from tests.server.commands.test_commands import Program, program, server_url
from tests.support.reading import Stocked

__all__ = ["program", "server_url"]

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples" / "gate"


def run_check(*arguments: str) -> Result:
    return CliRunner().invoke(check, list(arguments))


def test_a_healthy_run_passes(program: Program) -> None:
    passed = program("check", "mt/healthy")
    assert (passed.exit_code, passed.output) == (0, "mt/healthy: healthy, running at step 59\n")


def test_an_explosion_fails_until_somebody_has_seen_it(program: Program) -> None:
    failed = program("check", "exploding")
    assert failed.exit_code == FIRING == 3
    assert "mt/exploding: critical runaway since step" in failed.output
    found = json.loads(program("check", "exploding", "--json").output)
    assert (found["healthy"], found["severity"], found["state"]) == (False, "critical", "finished")
    for alert in json.loads(program("check", "exploding", "--fail-on", "info", "--json").output)["firing"]:
        assert program("alerts", "ack", alert["alert_id"]).exit_code == 0
    assert program("check", "exploding").exit_code == 0


def test_what_was_called_wrong_does_not_fail(program: Program) -> None:
    for alert in json.loads(program("check", "exploding", "--json").output)["firing"]:
        program("alerts", "judge", alert["alert_id"], "wrong")
    assert program("check", "exploding").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nobody"], UNKNOWN),
        (["mt/nobody"], UNKNOWN),
        (["nobody", "--wait", "--timeout", "0s"], UNKNOWN),
        (["exploding", "--server-url", "http://127.0.0.1:1"], 1),
        (["healthy", "--wait", "--timeout", "0s"], 1),
        (["exploding", "--server-url", "ftp://x"], 1),
        (["exploding", "--fail-on", "own"], 2),
        ([], 2),
    ],
)
def test_what_cannot_be_said_is_neither_healthy_nor_an_explosion(
    program: Program, arguments: list[str], code: int
) -> None:
    answered = program("check", *arguments)
    assert answered.exit_code == code, answered.output
    assert "Traceback" not in answered.output


def test_who_waits_is_told_when_the_run_ends(
    program: Program, stocked: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def end(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            stocked.add("coming")

    monkeypatch.setattr(import_module("seismograd_server.commands.check").time, "sleep", end)
    passed = program("check", "coming", "--wait", "--json")
    assert (passed.exit_code, json.loads(passed.output)["state"]) == (0, "finished")
    assert len(waits) == 2


def test_who_waits_is_told_of_an_explosion_at_once(program: Program) -> None:
    assert program("check", "exploding", "--wait").exit_code == FIRING


def gate(directory: Path, server: str, run: str, training: str = "true") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SEISMOGRAD_URL": server, "PATH": f"{directory}:{os.environ['PATH']}"}
    starter = directory / "seismograd"
    starter.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "from seismograd.cli import main; main()" "$@"\n'
    )
    starter.chmod(0o755)
    command = [str(EXAMPLES / "gate.sh"), run, "echo", "published", "--", training]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_shell_example_publishes_what_is_healthy_and_nothing_else(server_url: str, tmp_path: Path) -> None:
    healthy = gate(tmp_path, server_url, "mt/healthy")
    assert (healthy.returncode, healthy.stdout.splitlines()[-1]) == (0, "published"), healthy.stderr
    exploding = gate(tmp_path, server_url, "mt/exploding")
    assert exploding.returncode == FIRING
    assert "published" not in exploding.stdout
    assert gate(tmp_path, server_url, "mt/nobody").returncode == UNKNOWN
    assert gate(tmp_path, server_url, "mt/healthy", "false").returncode == 1, "training itself failed"


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command reads of these arguments; an option that does not exist would raise."""
    return dict(check.make_context("check", arguments).params)


def test_the_kubernetes_example_asks_what_can_be_asked() -> None:
    job = yaml.safe_load((EXAMPLES / "kubernetes-job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "check"
    assert parsed(container["args"][1:])["wait"]
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [FIRING]
    assert rule["onExitCodes"]["containerName"] == container["name"]


def test_the_airflow_example_asks_what_can_be_asked() -> None:
    tree = ast.parse((EXAMPLES / "airflow_dag.py").read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    (command,) = [found[0] for text in texts if (found := re.findall(r"^seismograd check .*$", text, re.MULTILINE))]
    assert parsed(shlex.split(command)[2:])["timeout"] == 7200.0
