"""Real trainers by the dozen: a program that has imported torch once and forks, and what its children have written."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ENTRY = struct.Struct("<qd")  # step, norm of the gradient; as tests/e2e/zygote.py writes them


class Zygote:
    """The program that forks trainers."""

    def __init__(self, server: str, spool: Path) -> None:
        script = Path(__file__).parents[1] / "e2e" / "zygote.py"
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), server, str(spool)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def start(self, run: str, journal: Path, ending: str = "") -> int:
        """Starts a trainer and gives its process id."""
        assert self.process.stdin is not None
        print(run, journal, *([ending] if ending else []), file=self.process.stdin, flush=True)
        return self.read()

    def read(self) -> int:
        """What the program says next: behind a trainer with an ending, its exit status."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture
def zygotes() -> Iterator[Callable[[str, Path], Zygote]]:
    started: list[Zygote] = []

    def start(server: str, spool: Path) -> Zygote:
        started.append(Zygote(server, spool))
        return started[-1]

    yield start
    for zygote in started:
        zygote.stop()


def journal_of(path: Path) -> list[tuple[int, float]]:
    content = path.read_bytes() if path.exists() else b""
    return list(ENTRY.iter_unpack(content[: len(content) // ENTRY.size * ENTRY.size]))
