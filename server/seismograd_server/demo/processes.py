"""The demo's child processes: started with logs, looked at, and stopped whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from seismograd_server.errors import SeismogradError

WORLD_SIZE = 2
# Exit code of an example whose training failed, as `seismograd.examples.workbench` has it.
TRAINING_FAILED = 3
# Opening a database and two ports takes about two seconds, more on a machine that is busy importing torch.
_READY_SECONDS = 60.0
# How long a process may take to end by itself after SIGTERM: a server writes its last checkpoint.
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.05
_TAIL_LINES = 15


class ChildError(SeismogradError):
    """A child process ended as it should not; `tail` is the end of what it wrote."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail


@dataclass(frozen=True, slots=True)
class Child:
    """A process and what it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def ended_within(self, seconds: float) -> bool:
        """Wait so long for its end."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not enough."""
        if self.process.poll() is None:
            self.process.terminate()
            if not self.ended_within(_STOP_SECONDS):
                self.process.kill()
                self.process.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def failed(self) -> ChildError:
        """Say that it has ended, when it should not have."""
        status = self.process.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
        return ChildError(f"{self.name} {how}; its whole log is {self.log}", self.tail())


class Children:
    """All children of the demo; a context manager that leaves none behind, the latest first."""

    def __init__(self, log_directory: Path) -> None:
        self._logs = log_directory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], output: Path | None = None
    ) -> Child:
        """Start a process that writes to `<name>.log`, and its standard output to `output` when that is given.

        It stays in the demo's process group, so that a terminal's Ctrl-C or its closing reaches it, too.
        """
        path = self._logs / f"{name}.log"
        with _uninterrupted(), ExitStack() as files:
            log = files.enter_context(path.open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=files.enter_context(output.open("wb")) if output else log,
                stderr=log,
                env={**_clean_environment(), **environment},
            )
            child = Child(name, process, path)
            self._stack.callback(child.stop)
        return child

    def start_server(self, data_directory: Path) -> tuple[Child, dict[str, Any]]:
        """Start a server on free ports and wait until it is ready.

        Returns:
            The process, and what it says of itself (`http`: URL of its pages, `grpc`: host and port for clients).

        Raises:
            ChildError: it ended instead, or did not get ready in time.
        """
        said = self._logs / "server.json"
        listen = ("--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
        command = ["seismograd.cli", "serve", "--data-dir", str(data_directory), *listen, "--json"]
        child = self.start("server", command, {}, output=said)
        deadline = time.monotonic() + _READY_SECONDS
        while not (line := said.read_text()).endswith("\n"):
            if child.ended_within(_LOOK_SECONDS):
                raise child.failed()
            if time.monotonic() > deadline:
                raise ChildError(f"the server was not ready within {_READY_SECONDS:.0f} s", child.tail())
        ready: dict[str, Any] = json.loads(line)
        return child, ready

    def start_ranks(self, module: str, run: str, arguments: Sequence[str]) -> tuple[Child, ...]:
        """Start a training script as ranks of one launch, as torchrun would, over loopback."""
        port = str(_free_port())
        common = {"WORLD_SIZE": str(WORLD_SIZE), "LOCAL_WORLD_SIZE": str(WORLD_SIZE), "MASTER_ADDR": "127.0.0.1"}
        return tuple(
            self.start(
                f"{run}-rank{rank}",
                [module, "--run", run, *arguments],
                {**common, "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank), **_gloo_interface()},
            )
            for rank in range(WORLD_SIZE)
        )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back to the end of the block: a child half started would be nobody's to stop."""
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda received, _frame: held.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _clean_environment() -> dict[str, str]:
    """Everything but settings of seismograd and of a launcher around us: the demo is the same for everybody."""
    foreign = ("SEISMOGRAD_", "TORCHELASTIC_", "SLURM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _gloo_interface() -> dict[str, str]:
    """Loopback for gloo, which otherwise looks up this machine's name, and that may hang or fail."""
    known = {name for _, name in socket.if_nameindex()}
    return next(({"GLOO_SOCKET_IFNAME": name} for name in ("lo", "lo0") if name in known), {})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
