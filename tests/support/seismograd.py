"""The program itself as a part of a test: a real server process, the command line, and training scripts beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import ProcessStarter, RunningProcess, answers, free_port

PROGRAM = str(Path(sys.executable).with_name("seismograd"))


def seismograd(*arguments: str | Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Runs the program to its end, as a person would from a shell."""
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@dataclass
class SeismogradServer:
    """A running server; `restart` starts another one on the same ports and data."""

    grpc: str
    http: str
    data_dir: Path
    process: RunningProcess
    restart: Callable[[], SeismogradServer]

    def get(self, path: str) -> Any:
        """GET of the JSON API; fails the test with the answer when it is not 200."""
        response = httpx.get(f"{self.http}{path}", timeout=30.0, trust_env=False)
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text}"
        return response.json()

    def page(self, path: str, accept: str = "*/*") -> str:
        """The text of a page."""
        response = httpx.get(f"{self.http}{path}", headers={"Accept": accept}, timeout=30.0, trust_env=False)
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text}"
        return response.text


@pytest.fixture
def start_seismograd(start_process: ProcessStarter, tmp_path: Path) -> Callable[..., SeismogradServer]:
    """Call it with the lines of a TOML configuration, if any; it gives a server that is ready."""

    def start(config: str = "", data_dir: Path | None = None) -> SeismogradServer:
        folder = data_dir or tmp_path / "data"
        config_path = tmp_path / "seismograd.toml"
        config_path.write_text(config)
        grpc, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        command: list[str | Path] = [PROGRAM, "serve", "--config", config_path, "--data-dir", folder]
        command += ["--grpc-listen", grpc, "--http-listen", http]

        def run() -> SeismogradServer:
            process = start_process("seismograd", command, ready=answers(f"http://{http}/readyz"))
            return SeismogradServer(grpc, f"http://{http}", folder, process, run)

        return run()

    return start


@dataclass
class Training:
    """A training script that runs beside the test."""

    process: subprocess.Popen[str]
    journal_path: Path

    def journal(self) -> list[dict[str, Any]]:
        """What truly happened, step by step, as the script wrote it."""
        lines = self.journal_path.read_text().splitlines() if self.journal_path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def let_go(self) -> None:
        """Lets a script that was started with `linger` finish."""
        self.journal_path.with_suffix(".end").touch()

    def let_recover(self) -> None:
        """Lets a script that was started with `hold_recovery` load its healthy weights and go on."""
        self.journal_path.with_suffix(".recovery").touch()

    def finish(self, timeout: float = 120.0) -> None:
        """Waits for the script; fails with what it printed when it does not end well."""
        output, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, output


@pytest.fixture
def start_training(tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """Call it with a server, the name of a run and options of tests/e2e/train.py; what a failed test leaves is killed.

    With `linger` the script lives on behind its last step until `let_go()`, as a job does that outlives a server; with
    `hold_recovery` it stays in its explosion until `let_recover()`.
    """

    started: list[subprocess.Popen[str]] = []

    def start(server: str, run: str, *options: str, linger: bool = False, hold_recovery: bool = False) -> Training:
        script, journal = Path(__file__).parents[1] / "e2e" / "train.py", tmp_path / f"{run}.jsonl"
        command: Sequence[str] = [sys.executable, str(script), "--server", server, "--run", run]
        wait = ["--linger", str(journal.with_suffix(".end"))] if linger else []
        wait += ["--hold-recovery", str(journal.with_suffix(".recovery"))] if hold_recovery else []
        process = subprocess.Popen(
            [*command, "--journal", str(journal), *options, *wait],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return Training(process, journal)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
