"""The demo as a user runs it: every scenario, on real processes, real text and a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import eventually

# Promised is an alert within 90 seconds on two cores; a test machine may be three times slower.
DEADLINE_SECONDS = 270

pytestmark = pytest.mark.timeout(2 * DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def data_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that every scenario but the first is a rerun on the data of the others."""
    return tmp_path_factory.mktemp("demo") / "data"


def command(data_directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "seismograd.cli", "demo", "--data-dir", str(data_directory), *arguments]


def group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def demo_process(data_directory: Path) -> Iterator[Any]:
    """Start a demo in a process group of its own; the whole group is killed at the end, should any of it be left."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                command(data_directory, *arguments),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if not group_is_empty(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# What was done to each, as the summary of its report names it.
CAUSES = {
    "lstm": "likely cause: the learning rate rose",
    "rnn": "likely cause: the weight decay is below zero",
    "mlp": "likely cause: all weights grow at the same rate, as under a weight decay below zero",
    "transformer": "likely cause: the weight decay is below zero",
    "rank-fault": "likely cause: rank 1: its batch or shard is bad",
}


def check_result(result: dict[str, Any], scenario: str) -> None:
    assert result["passed"], result["problems"]
    assert result["healthy"]["alerts"] == []
    assert result["alert_step"] < result["failure_step"]
    assert result["alert_after_seconds"] < DEADLINE_SECONDS
    report = Path(result["report"]).read_text()
    assert result["pushed"]["run"] in report
    assert CAUSES[scenario] in report


@pytest.mark.parametrize("scenario", ["lstm", "rnn", "mlp", "transformer"])
def test_the_alert_comes_before_the_failure_and_the_healthy_twin_is_silent(scenario: str, data_directory: Path) -> None:
    ended = subprocess.run(
        command(data_directory, "--scenario", scenario, "--json"),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    check_result(json.loads(ended.stdout), scenario)


def test_a_damaged_shard_is_blamed_on_its_rank_and_the_server_stays_up_when_asked(
    demo_process: Any, data_directory: Path
) -> None:
    demo = demo_process("--scenario", "rank-fault", "--json", "--keep")
    line = demo.stdout.readline()
    result = json.loads(line or demo.stderr.read())
    check_result(result, "rank-fault")
    assert result["alert_rank"] == 1

    page = httpx.get(f"{result['url']}/metrics", timeout=30, trust_env=False).text
    series = Counter(re.findall(r'^seismograd_run_\w+\{[^}]*run="([^"]+)"', page, re.MULTILINE))
    assert 0 < series[result["pushed"]["run"]] <= 64
    assert 0 < series[result["healthy"]["run"]] <= 64

    second = subprocess.run(
        command(data_directory), capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    assert second.returncode == 1, "two servers on one database"
    assert second.stderr.strip().splitlines()[-1].startswith("Error: server ended with exit code 1")

    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=60) == 0
    assert group_is_empty(demo.pid)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(
    sent: signal.Signals, demo_process: Any, data_directory: Path
) -> None:
    before = set(data_directory.glob("demo-logs/mlp-*-rank1.log"))
    demo = demo_process("--scenario", "mlp")
    eventually(
        lambda: set(data_directory.glob("demo-logs/mlp-*-rank1.log")) - before, DEADLINE_SECONDS, "no rank was started"
    )
    demo.send_signal(sent)
    assert demo.wait(timeout=60) == 1
    assert demo.stderr.read().strip().splitlines()[-1] == "Error: interrupted"
    assert group_is_empty(demo.pid)
