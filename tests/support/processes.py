"""Real programs as parts of a test: started on free ports, awaited until they are ready, stopped whatever happens.

A program that is missing fails the test under CI=true, because there nothing may be skipped quietly; elsewhere the test
is skipped with the name of the package to install. What a program wrote is shown when it does not become ready.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import httpx
import pytest

Value = TypeVar("Value")

# How often a condition outside of this process is looked at; nothing tells us when it becomes true.
POLL_SECONDS = 0.05
# Generous: on a loaded machine of two cores a Go program takes seconds to listen.
READY_SECONDS = 60.0
_LOG_TAIL = 4000


# Linux gives outgoing connections, and whoever asks for any port, those from 32768 on: between our look and the start
# of a server somebody would take one of them now and then.
_OWN_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago, and that nobody gets by chance."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", secrets.choice(_OWN_PORTS)))
            return int(probe.getsockname()[1])


def require_program(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, or fails where nothing may be skipped."""
    found = shutil.which(name)
    if found is None:
        miss(f"{name} is not installed: apt-get install {package}")
    return found


def miss(message: str) -> NoReturn:
    """Skips the test for want of something, or fails it where nothing may be skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@dataclass
class RunningProcess:
    """A program that has become ready."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """The end of what it wrote."""
        return self.log_path.read_text(errors="replace")[-_LOG_TAIL:]

    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a machine that dies would."""
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self, timeout: float = 10.0) -> int:
        """SIGTERM, then SIGKILL when that is not enough; give the exit status."""
        if self.is_running():
            self.process.terminate()
            try:
                self.process.wait(timeout=timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait(timeout=10)


class ProcessStarter:
    """Starts programs for one test and stops them, the latest first, when the test is over."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._started = 0

    def __call__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        timeout: float = READY_SECONDS,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> RunningProcess:
        """Start `command` and wait until `ready()`; fail with its log when it exits or stays silent instead."""
        self._started += 1
        log_path = self._directory / f"{self._started}-{name}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=directory or self._directory,
                env={**os.environ, **(environment or {})},
            )
        running = RunningProcess(name, process, log_path)
        self._stack.callback(running.stop)
        deadline = time.monotonic() + timeout
        while not ready():
            if time.monotonic() > deadline:
                pytest.fail(f"{name} was not ready within {timeout:g} s; its log ends with:\n{running.log()}")
            try:
                status = process.wait(timeout=POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"{name} exited with {status} before it was ready; its log ends with:\n{running.log()}")
        return running


@pytest.fixture
def start_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessStarter]:
    """Call it as `start_process(name, command, ready=...)`; see ProcessStarter."""
    with ExitStack() as stack:
        yield ProcessStarter(tmp_path_factory.mktemp("processes"), stack)


def answers(url: str) -> Callable[[], bool]:
    """A readiness check: GET `url` answers with 200."""

    def check() -> bool:
        try:
            return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    return check


def eventually(look: Callable[[], Value | None], timeout: float, what: str) -> Value:
    """The first value of `look()` that is true; fail with `what` when there is none in time."""
    deadline = time.monotonic() + timeout
    pace = threading.Event()  # never set: it only waits
    while not (value := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"within {timeout:g} s: {what}")
        pace.wait(POLL_SECONDS)
    return value
