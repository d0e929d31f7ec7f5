"""Lives of a server: each is a real process on the same data directory, and most of them end by SIGKILL."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("killed_server.py")
# Nothing but completeness may close a step, and nothing but a farewell end a run: how long a server lay dead must not
# show. Checkpoints so often that some restarts replay from one and some from the start.
STEADY = {"close_wait_seconds": 600.0, "lost_after_seconds": 600.0, "checkpoint_seconds": 0.2, "tick_milliseconds": 5.0}
# A server that is neither ready nor dead by then hangs.
_READY_SECONDS = 60.0


@dataclass
class Life:
    """One server process."""

    pid: int
    ended: threading.Event
    port: int = 0  # of gRPC; 0 = it died before it listened
    http_port: int = 0
    exit_code: int = 0
    died_at: str = ""  # the named point at which it killed itself

    def kill(self) -> None:
        """SIGKILL, unless it is dead already."""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end; the exit code, negative = the signal's number."""
        if not self.ended.wait(_READY_SECONDS):
            raise TimeoutError(f"server {self.pid} does not end")
        return self.exit_code


class Lives:
    """Starts one server after the other; each must have ended before the next begins."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._life: Life | None = None
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def start(
        self,
        data_dir: Path,
        *,
        point: str = "",
        hit: int = 0,
        kill_after: float | None = None,
        delays: Mapping[str, float] | None = None,
        failures: Mapping[str, tuple[int, float]] | None = None,
        **settings: Any,
    ) -> Life:
        """A server that is ready, or that has died on the way.

        Args:
            data_dir: where its data are.
            point: it kills itself here, ...
            hit: ... when it comes by for this time.
            kill_after: seconds after its birth at which it is killed, whatever it does; None = never.
            delays: how long it waits at points, in seconds.
            failures: libfiu's names of system calls that fail once it is ready, with errno and probability.
            settings: of the server, beside STEADY.
        """
        own = (
            STEADY | {"data_dir": str(data_dir), "grpc_listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"} | settings
        )
        assert self._process.stdin is not None
        with self._news:
            self._life = None
            order = {"settings": own, "point": point, "hit": hit, "delays": delays or {}, "failures": failures or {}}
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            if not self._news.wait_for(lambda: self._life is not None, _READY_SECONDS):
                raise TimeoutError("no server was born")
            life: Life = self._life  # type: ignore[assignment]  # the listener has set it
            if kill_after is not None:
                timer = threading.Timer(kill_after, life.kill)
                timer.daemon = True
                timer.start()
            if not self._news.wait_for(lambda: life.port or life.ended.is_set(), _READY_SECONDS):
                raise TimeoutError(f"server {life.pid} is neither ready nor dead")
        return life

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            news = json.loads(line)
            with self._news:
                if "pid" in news:
                    self._life = Life(news["pid"], threading.Event())
                elif "grpc" in news:
                    assert self._life is not None
                    self._life.port, self._life.http_port = news["grpc"], news["http"]
                elif "point" in news:
                    assert self._life is not None
                    self._life.died_at = news["point"]
                else:
                    assert self._life is not None
                    self._life.exit_code = news["ended"]
                    self._life.ended.set()
                self._news.notify_all()


@contextlib.contextmanager
def lives(*around: str) -> Iterator[Lives]:
    """Servers to be started, through a program `around` them; the last one, if it lives, is killed at the end."""
    command = [*around, sys.executable, str(PROGRAM)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        started = Lives(process)
        try:
            yield started
        finally:
            if started._life is not None:
                started._life.kill()
            assert process.stdin is not None
            process.stdin.close()
