"""The examples as their page has them: every line of it is run, on a real server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import seismograd
from seismograd.examples.workbench import TRAINING_FAILED
from tests.support.seismograd import SeismogradServer

PAGE = Path(seismograd.__file__).parent / "examples" / "README.md"
COMMANDS = re.findall(r"^    python (-m .+)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split("--run ")[1].split()[0])
def test_an_example_does_what_its_page_says(command: str, start_seismograd: Callable[..., SeismogradServer]) -> None:
    server = start_seismograd()
    environment = {**os.environ, "SEISMOGRAD_SERVER": server.grpc, "SEISMOGRAD_PROJECT": "examples"}
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    run = command.split("--run ")[1].split(maxsplit=1)[0]
    alerts = server.get(f"/api/v1/runs/examples/{run}/alerts")["alerts"]
    critical = {each["signature"]: each["opened_step"] for each in alerts if each["severity"] == "critical"}
    if not run.endswith("-pushed"):
        assert (done.returncode, critical) == (0, {}), done.stderr
        return
    assert done.returncode == TRAINING_FAILED, done.stderr
    failed = re.search(r"training failed at step (\d+)", done.stdout)
    assert failed is not None
    assert "runaway" in critical
    assert min(critical.values()) < int(failed[1]), "told before it had failed"


def test_the_page_has_every_example() -> None:
    named = PAGE.read_text()
    scripts = {path.stem for path in PAGE.parent.glob("*.py")} - {"__init__", "workbench"}
    assert not [name for name in scripts if name not in named]
